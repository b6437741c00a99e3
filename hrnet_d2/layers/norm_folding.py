"""Normalization on running statistics as part of the convolution before it."""

from collections.abc import Iterable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["NormFolding", "can_fold", "conv_norm", "scale_and_offset"]


def can_fold(norm: nn.Module | None) -> bool:
    """Whether a layer in eval mode is one factor and one offset for each channel."""
    if isinstance(norm, _BatchNorm):
        return norm.track_running_stats and norm.running_mean is not None
    return norm is None or isinstance(norm, FrozenBatchNorm2d)


def scale_and_offset(
    norm: nn.Module | SimpleNamespace, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two vectors that a layer on running statistics multiplies by and adds.

    Args:
        norm: a layer for which ``can_fold`` holds, not None; or its tensors and eps alone.
        dtype: to compute in; None is that of the statistics.

    Returns:
        (C,) and (C,), differentiable in the layer's weight and bias.
    """
    dtype = dtype or norm.running_mean.dtype
    mean, variance = norm.running_mean.to(dtype), norm.running_var.to(dtype)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(dtype)
    offset = -mean * scale
    return scale, offset if norm.bias is None else offset + norm.bias.to(dtype)


class NormFolding:
    """Normalization layers of a network that, in training, become part of their convolutions.

    Where a layer holds its statistics it is a factor and an offset for each channel, which the
    convolution's weights take up: the same result and the same gradients to float rounding.  The
    map between the two layers, which normalization would keep for its gradient, does not come to
    be, nor do the passes over it.  The vectors of all layers are computed together, in a few
    kernels; what remains for each layer is a product the size of its weights.
    """

    def __init__(self, norms: Iterable[nn.Module]):
        """
        Args:
            norms: the layers; those that never fold, such as GroupNorm, may be among them.
        """
        self.norms = list(norms)
        self._vectors: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def __getstate__(self):
        # The vectors belong to one pass and its graph.
        return {**self.__dict__, "_vectors": {}}

    def prepare(self) -> None:
        """Compute the vectors for the pass that follows: call it first in a network's forward."""
        self._vectors = {}
        if not torch.is_grad_enabled():
            return
        norms = [norm for norm in self.norms if _holds_statistics(norm)]
        norms = [norm for norm in norms if norm.eps == norms[0].eps]  # in practice all
        # Frozen layers apart: gradients through a common vector would reach down to them.
        for learns in (True, False):
            self._prepare([norm for norm in norms if norm.weight.requires_grad == learns])

    def _prepare(self, norms: list[nn.Module]) -> None:
        if not norms:
            return
        names = ("running_mean", "running_var", "weight", "bias")
        joined = {name: torch.cat([getattr(norm, name) for norm in norms]) for name in names}
        scale, offset = scale_and_offset(SimpleNamespace(eps=norms[0].eps, **joined))
        sizes = [len(norm.running_mean) for norm in norms]
        vectors = zip(scale.split(sizes), offset.split(sizes), strict=True)
        self._vectors.update(zip(norms, vectors, strict=True))

    def vectors(self, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Scale and offset of a layer in this pass; None where it does not fold."""
        return self._vectors.get(norm) if torch.is_grad_enabled() else None


def conv_norm(
    conv: nn.Conv2d, norm: nn.Module, x: torch.Tensor, folding: NormFolding | None
) -> torch.Tensor:
    """``norm(conv(x))``, as one convolution where ``folding`` says so.

    Args:
        conv: without bias.
        norm: any normalization layer.
        x: (N, C, H, W).
        folding: of the network that the layers belong to, or None.
    """
    vectors = None if folding is None else folding.vectors(norm)
    if vectors is None:
        return norm(conv(x))
    scale, offset = vectors
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, offset, conv.stride, conv.padding, conv.dilation, conv.groups)


def _holds_statistics(norm: nn.Module) -> bool:
    """Whether a layer folds in training as well: it has statistics and does not renew them."""
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return isinstance(norm, _BatchNorm) and not norm.training and norm.affine and can_fold(norm)
