"""What the values of tensors must be like before they are copied into a model."""

import math
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["negative_variances", "non_finite", "suitable"]


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


def non_finite(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that have NaN or infinite values.

    Args:
        state: tensors by name, such as a model's ``state_dict()``; other values are skipped.
    """
    return [
        name for name, value in state.items() if isinstance(value, torch.Tensor) and _bad(value)
    ]


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


def _bad(value: torch.Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()) or value.is_meta:
        return False
    value = value.detach()
    if value.dtype in (torch.float32, torch.float64):
        # A sum is several times faster than isfinite; it may overflow, so it only acquits.
        if math.isfinite(value.sum().item()):
            return False
    elif value.dtype.itemsize == 1:  # 8-bit floating point has few operations of its own
        value = value.float()
    return not bool(torch.isfinite(value).all())
