"""Layers that train faster on a CPU than PyTorch's own: the same gradients to float rounding."""

from typing import Any, cast

import torch
from detectron2.layers import Conv2d, ROIAlign
from torch import nn
from torch.autograd.function import once_differentiable

from .applicable import trains_in_float32
from .batch_norm import CPUBatchNorm2d
from .norm_folding import has_hooks
from .onednn import has_onednn, linear, multiplies_faster
from .roi_align import FastROIAlign
from .winograd import (
    is_profitable,
    transform_weight,
    winograd_conv3x3,
    winograd_weight_gradient,
)

__all__ = ["CPUConv2d", "CPULinear", "use_cpu_layers"]

# Weights below this are multiplied in no time.
SMALLEST_LINEAR = 2**18
# Pixels below which Winograd's transform of the weight costs more than the algorithm saves.
SMALLEST_MAPS = 2000


class _Linear(torch.autograd.Function):
    """The three products of a linear layer by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return (
            linear(grad, weight.t()) if needed[0] else None,
            linear(grad.t(), x.t()) if needed[1] else None,
            grad.sum(0) if needed[2] else None,
        )


class CPULinear(nn.Linear):
    """``nn.Linear`` whose three products run by oneDNN when it trains in float32 on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (..., in_features).

        Returns:
            (..., out_features).
        """
        if x.dim() != 2 or not trains_in_float32(x, self.weight):
            return super().forward(x)
        made: torch.Tensor = _Linear.apply(x, self.weight, self.bias)
        return made


class _Conv3x3(torch.autograd.Function):
    """3x3 convolution; the result and its gradients by Winograd's algorithm."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return winograd_conv3x3(x, transform_weight(weight, torch.float32), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        grad_x = None
        if needed[0]:
            turned = weight.flip(2, 3).transpose(0, 1)
            grad_x = winograd_conv3x3(grad, transform_weight(turned, torch.float32), None)
        return (
            grad_x,
            winograd_weight_gradient(x, grad) if needed[1] else None,
            grad.sum((0, 2, 3)) if needed[2] else None,
        )


class CPUConv2d(Conv2d):
    """Detectron2's ``Conv2d`` of a large 3x3 kernel, for training in float32 on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (N, in_channels, H, W).

        Returns:
            (N, out_channels, H, W).
        """
        if x.dim() != 4 or x[:, 0].numel() < SMALLEST_MAPS or not trains_in_float32(x, self.weight):
            return cast(torch.Tensor, super().forward(x))
        x = _Conv3x3.apply(x, self.weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def _prefers_channels_last() -> bool:
    """Whether oneDNN's gradients of channels-last convolutions are the faster ones.

    With AVX-512 they are, most of all of 18 channels, of which the other layout fills up half of
    its blocks with zeros; with AVX2 those of many channels take twice the time.
    """
    return has_onednn() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def use_cpu_layers(model: nn.Module) -> nn.Module:
    """Let a model's large layers and its RoIAlign train by the kernels of this package.

    The layers keep their parameters, hooks and names.  In inference, on other devices and in other
    types they compute as before.

    Args:
        model: changed in place.

    Returns:
        ``model``.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is ROIAlign and not has_hooks(child):
                setattr(module, name, FastROIAlign(child))
        if isinstance(getattr(module, "trains_channels_last", None), bool):
            cast(Any, module).trains_channels_last = _prefers_channels_last()
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CPUBatchNorm2d
        if not has_onednn():
            continue
        large = type(module) is nn.Linear and module.weight.numel() >= SMALLEST_LINEAR
        if large and multiplies_faster():
            module.__class__ = CPULinear
        elif type(module) is Conv2d and is_profitable(cast(nn.Conv2d, module)):
            module.__class__ = CPUConv2d
    return model
