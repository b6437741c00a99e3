"""What the values of tensors must be like before they are copied into a model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["LARGEST", "Findings", "examine", "negative_variances", "non_finite", "suitable"]

# Trained weights stay below 1e3, and statistics of unnormalized pixels below 1e6. A few layers with
# values beyond this one overflow in single precision.
LARGEST = 1e12


def suitable(value: Any, target: torch.Tensor) -> tuple[torch.Tensor | None, str]:
    """Whether a tensor's values can be copied into another tensor without changing their meaning.

    Args:
        value: what a file has; its shape is not looked at.
        target: the model's tensor.

    Returns:
        The tensor to copy, in the target's dtype if that is narrower, and "". If it cannot be
        copied, None and what it is: "sparse", "a tensor of complex64 values", ....
    """
    if not isinstance(value, torch.Tensor):
        return None, f"a {type(value).__name__}"
    if value.is_meta and not target.is_meta:
        return None, "a meta tensor, which has no values"
    if value.is_quantized:
        return None, "a quantized tensor"
    if value.is_nested:
        return None, "a nested tensor"
    if value.layout is not torch.strided:
        return None, f"a sparse tensor ({str(value.layout).removeprefix('torch.')})"
    if value.dtype == target.dtype:
        return value, ""
    described = f"a tensor of {str(value.dtype).removeprefix('torch.')} values"
    if target.is_floating_point() != value.is_floating_point() or value.is_complex():
        # Counters are the exception: old files and other programs keep them as other numbers.
        if target.numel() != 1 or value.is_complex() or target.is_floating_point():
            return None, described
        if not value.is_meta and not float(value).is_integer():
            return None, described
    elif target.dtype == torch.bool or value.dtype == torch.bool:
        return None, described
    try:
        return value.to(target.dtype), ""
    except (RuntimeError, NotImplementedError):  # a dtype that PyTorch cannot convert
        return None, described


@dataclass
class Findings:
    """Names of the tensors whose values cannot be those of a trained model.

    Attributes:
        non_finite: they have NaN or infinite values.
        huge: they have values beyond ``LARGEST``.
        zero: weights of convolutions and linear layers, and running variances, that are all 0.
            Biases, and weights of normalizations, may be.
    """

    non_finite: list[str] = field(default_factory=list)
    huge: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)


def examine(state: Mapping[str, Any]) -> Findings:
    """Look for values that are not finite, absurdly large or all zero, in one pass.

    Args:
        state: tensors by name, such as a model's ``state_dict()``; other values are skipped.
    """
    findings = Findings()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.is_meta or not value.numel():
            continue
        if not (value.is_floating_point() or value.is_complex()):
            continue
        value = value.detach()
        # Its norm is one fast pass. It may overflow or underflow, so it only acquits.
        norm = _norm(value)
        if norm == 0:  # finite
            if _never_zero(name, value) and not bool(value.any()):
                findings.zero.append(name)
        elif not norm <= LARGEST:
            if value.dtype.itemsize == 1:  # 8-bit floating point has few operations of its own
                value = value.float()
            if not bool(torch.isfinite(value).all()):
                findings.non_finite.append(name)
            elif value.abs().max().item() > LARGEST:
                findings.huge.append(name)
            elif _never_zero(name, value) and not bool(value.any()):
                findings.zero.append(name)
    return findings


def non_finite(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that have NaN or infinite values.

    Args:
        state: tensors by name, such as a model's ``state_dict()``; other values are skipped.
    """
    return examine(state).non_finite


def negative_variances(state: Mapping[str, Any]) -> list[str]:
    """Names of the running variances of batch normalization that have negative values.

    The normalization takes their root, so that its output would be NaN.

    Args:
        state: tensors by name, with finite values.
    """
    return [
        name
        for name, value in state.items()
        if name.endswith(".running_var")
        and value.numel()
        and not value.is_meta
        and value.min().item() < 0
    ]


def _norm(value: torch.Tensor) -> float:
    """The Euclidean norm; NaN for dtypes in which it is not computed fast."""
    if value.dtype not in (torch.float32, torch.float64):
        return math.nan
    return float(torch.linalg.vector_norm(value))


def _never_zero(name: str, value: torch.Tensor) -> bool:
    return value.ndim >= 2 or name.endswith(".running_var")


def weights(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that :func:`examine` would name as ``zero`` if they were."""
    return [
        name
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.numel()
        and _never_zero(name, value)
    ]
