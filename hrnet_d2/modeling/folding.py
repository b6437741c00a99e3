"""Normalisation on running statistics as part of the convolution before it."""

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["can_fold", "conv_norm", "scale_and_offset"]


def can_fold(norm: nn.Module | None) -> bool:
    """Whether a layer in eval mode is one factor and one offset for each channel."""
    if isinstance(norm, _BatchNorm):
        return norm.track_running_stats and norm.running_mean is not None
    return norm is None or isinstance(norm, FrozenBatchNorm2d)


def scale_and_offset(
    norm: nn.Module, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two vectors that a layer on running statistics multiplies by and adds.

    Args:
        norm: a layer for which ``can_fold`` holds, not None.
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


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: torch.Tensor, fold: bool = True) -> torch.Tensor:
    """``norm(conv(x))``; in training, where ``norm`` holds its statistics, as one convolution.

    The statistics being constants, the layer is a factor and an offset for each channel, which the
    weights take up: the same result and the same gradients to float rounding.  The map between the
    two layers, which normalisation would keep for its gradient, does not come to be, nor do the
    passes over it; the price is a product the size of the weights.

    Args:
        conv: without bias.
        norm: any normalisation layer.
        x: (N, C, H, W).
        fold: False computes one layer after the other.
    """
    if not fold or not torch.is_grad_enabled() or not _holds_statistics(norm):
        return norm(conv(x))
    scale, offset = scale_and_offset(norm)
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, offset, conv.stride, conv.padding, conv.dilation, conv.groups)


def _holds_statistics(norm: nn.Module) -> bool:
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return not norm.training and can_fold(norm)
