"""Normalization on running statistics as part of the convolution before it."""

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batch_norm import CPUBatchNorm2d

__all__ = ["NormFolding", "Vectors", "can_fold", "conv_norm", "has_hooks", "scale_and_offset"]

# Layer to its scale (C,) and offset (C,).
Vectors: TypeAlias = dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]
# The vectors of the pass that runs in this thread. They belong to the pass and not to a module, so
# that a block called on its own, later or in another thread, cannot meet those of another pass.
_PASS: ContextVar[Vectors | None] = ContextVar("hrnet_d2_norm_folding", default=None)

# A subclass with a forward pass of its own may do more, such as an activation.
_FORWARDS = (
    _BatchNorm.forward,
    nn.SyncBatchNorm.forward,
    NaiveSyncBatchNorm.forward,
    CPUBatchNorm2d.forward,
    FrozenBatchNorm2d.forward,
)


def has_hooks(module: nn.Module) -> bool:
    """Whether someone looks at what a module gets or returns, or changes it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def can_fold(norm: nn.Module | None) -> bool:
    """Whether a layer in eval mode is one factor and one offset for each channel."""
    if norm is None:
        return True
    if type(norm).forward not in _FORWARDS or has_hooks(norm):
        return False
    if isinstance(norm, _BatchNorm):
        return norm.track_running_stats and norm.running_mean is not None
    return isinstance(norm, FrozenBatchNorm2d)


def scale_and_offset(
    norm: Any, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two vectors that a layer on running statistics multiplies by and adds.

    Args:
        norm: a layer for which :func:`can_fold` is true, not None; or its tensors and eps alone.
        dtype: to compute in; None is that of the statistics.

    Returns:
        (C,) and (C,), differentiable in the layer's weight and bias.
    """
    dtype = dtype or norm.running_mean.dtype
    mean: torch.Tensor = norm.running_mean.to(dtype)
    scale: torch.Tensor = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(dtype)
    offset = -mean * scale
    return scale, offset if norm.bias is None else offset + norm.bias.to(dtype)


class NormFolding:
    """Normalization layers of a network that, in training, become part of their convolutions.

    A layer that keeps its statistics is a scale and an offset for each channel, which the
    convolution's weights absorb: the same result and the same gradients to float rounding.  The
    map between the two layers, which normalization would keep for its gradient, is never
    materialized, which saves memory and memory traffic.  The vectors of all layers are computed
    together, in a few kernels; what remains for each layer is a product the size of its weights.

    The vectors live only as long as the pass that they were computed for: inside
    :meth:`forward_pass`, and where activation checkpointing repeats a part of that pass, inside
    :meth:`repeated`.  Anywhere else, :func:`conv_norm` runs the two layers one after the other.
    Activation checkpointing from outside the network, of single blocks, therefore needs folding
    off: without ``use_reentrant``, PyTorch would notice that the repetition saves other tensors
    and raise ``CheckpointError``.
    """

    def __init__(self, norms: Iterable[nn.Module]):
        """
        Args:
            norms: the layers; those that never fold, such as GroupNorm, may be among them.
        """
        self.norms = list(norms)

    def forward_pass(self) -> AbstractContextManager[None]:
        """A context for one forward pass of the network, in which its layers fold.

        Without gradients nothing folds.  Under ``torch.compile``, which fuses by itself, the
        network must not enter the context.
        """
        if not torch.is_grad_enabled():
            return self.repeated(None)
        norms = [norm for norm in self.norms if _holds_statistics(norm)]
        norms = [norm for norm in norms if norm.eps == norms[0].eps]  # in practice all
        vectors: Vectors = {}
        # Frozen layers apart: gradients through a common vector would reach down to them.
        for learns in (True, False):
            vectors.update(_vectors([n for n in norms if n.weight.requires_grad == learns]))
        return self.repeated(vectors)

    @staticmethod
    def vectors_of_pass() -> Vectors | None:
        """The vectors of the pass that is running, for :meth:`repeated`; None outside of one."""
        return _PASS.get()

    @staticmethod
    @contextlib.contextmanager
    def repeated(vectors: Vectors | None) -> Iterator[None]:
        """A context that runs a part of a pass again, with the vectors of that pass."""
        token = _PASS.set(vectors)
        try:
            yield
        finally:
            _PASS.reset(token)


def _vectors(norms: list[nn.Module]) -> Vectors:
    """Scales and offsets of layers with the same eps, computed together."""
    if not norms:
        return {}
    names = ("running_mean", "running_var", "weight", "bias")
    joined = {name: torch.cat([getattr(norm, name) for norm in norms]) for name in names}
    scale, offset = scale_and_offset(SimpleNamespace(eps=norms[0].eps, **joined))
    sizes = [norm.get_buffer("running_mean").numel() for norm in norms]
    return dict(zip(norms, zip(scale.split(sizes), offset.split(sizes), strict=True), strict=True))


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``norm(conv(x))``, as one convolution inside a :meth:`NormFolding.forward_pass` of the layer.

    Args:
        conv: without bias.
        norm: any normalization layer.
        x: (N, C, H, W).

    Returns:
        (N, conv.out_channels, h, w).
    """
    if torch.compiler.is_compiling():  # cannot read a context variable
        return norm(conv(x))
    vectors = _PASS.get()
    if vectors is None or norm not in vectors or not torch.is_grad_enabled():
        return norm(conv(x))
    if not isinstance(conv, nn.Conv2d) or has_hooks(conv):  # such as an adapter around one
        return norm(conv(x))
    scale, offset = vectors[norm]
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, offset, conv.stride, conv.padding, conv.dilation, conv.groups)


def _holds_statistics(norm: nn.Module) -> bool:
    """Whether a layer folds in training as well: it has statistics and does not renew them."""
    if isinstance(norm, _BatchNorm):
        return not norm.training and norm.affine and can_fold(norm)
    return isinstance(norm, FrozenBatchNorm2d) and can_fold(norm)
