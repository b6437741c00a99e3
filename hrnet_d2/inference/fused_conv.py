"""Convolution for inference: normalization folded in, sum and ReLU in the same pass."""

import copy
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

from hrnet_d2.layers import winograd
from hrnet_d2.layers.cpu_training import CPUConv2d
from hrnet_d2.layers.norm_folding import can_fold, has_hooks, scale_and_offset
from hrnet_d2.layers.onednn import computes_bfloat16, has_onednn

from .packed_weight import PackedWeight

Pair: TypeAlias = tuple[int, int]

# A subclass with a forward pass of its own may do something else with its weights.
_FORWARDS = (nn.Conv2d.forward, Conv2d.forward, CPUConv2d.forward)

__all__ = ["FusedConv2d", "can_fuse", "fuse_conv"]


def _fold(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of ``norm(conv(x))``, rounded once."""
    weight, bias = conv.weight.detach(), conv.bias
    if norm is None:
        return weight, None if bias is None else bias.detach()
    if weight.device.type == "mps":  # Apple's GPUs have no double precision
        folded, shift = _fold(copy.deepcopy(conv).cpu(), copy.deepcopy(norm).cpu())
        return folded.to(weight.device), None if shift is None else shift.to(weight.device)
    scale, offset = scale_and_offset(norm, torch.float64)
    scale, offset = scale.detach(), offset.detach()
    if bias is not None:
        offset = offset + bias.detach().double() * scale
    folded = weight.double() * scale[:, None, None, None]
    return folded.to(weight.dtype), offset.to(weight.dtype)


class FusedConv2d(nn.Conv2d):
    """``relu(norm(conv(x)) + other)`` with normalization, sum and ReLU part of the convolution.

    On the CPU, without gradients, large 3x3 layers run Winograd's algorithm in float32, and the
    rest, and all in bfloat16, oneDNN's kernels with the weights laid out once; elsewhere PyTorch's
    convolution runs.  The layout is made again when the weights have changed.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.Module | None = None,
        *,
        relu: bool = False,
        use_winograd: bool = True,
    ):
        """
        Args:
            conv: gives the weights; its own ``norm`` and ``activation``, if it has any, are
                ignored.
            norm: a layer for which ``can_fold`` holds, or None.
            relu: whether a ReLU follows.
            use_winograd: allow Winograd's algorithm.
        """
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            cast(Pair, conv.kernel_size),
            cast(Pair, conv.stride),
            cast(Pair, conv.padding),
            cast(Pair, conv.dilation),
            conv.groups,
            bias=False,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        weight, bias = _fold(conv, norm)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.relu = relu
        self.use_winograd = use_winograd and winograd.is_profitable(conv)
        self.use_onednn = has_onednn() and conv.padding_mode == "zeros"
        self.use_onednn = self.use_onednn and not isinstance(conv.padding, str)
        self.use_cudnn = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        self._packed: PackedWeight[Any] = PackedWeight()

    def _apply(self, *args: Any, **kwargs: Any) -> "FusedConv2d":
        self._packed.clear()
        return super()._apply(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, relu={self.relu}, winograd={self.use_winograd}"

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            x: (N, in_channels, H, W).
            other: of the result's shape, added before the ReLU; may be overwritten with the result.

        Returns:
            (N, out_channels, h, w).
        """
        dtype = self._dtype_of_kernel(x)
        if dtype == torch.float32 and self.use_winograd:
            return self._winograd(x, other)
        if dtype is not None and self.use_onednn:
            return self._onednn(x.to(dtype), other)
        if self.use_cudnn and self.relu and x.device.type == "cuda" and _can_fuse_on_gpu(x):
            try:
                return self._cudnn(x, other)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError:  # no kernel for this type, size or GPU
                self.use_cudnn = False
        y = self._conv_forward(x, self.weight, self.bias)
        if other is not None:
            y += other
        return y.relu_() if self.relu else y

    def pad_channels(self, multiple: int) -> None:
        """Widen weights by zeros to multiples of channels, in and out.

        The tensor cores of GPUs want multiples of 8 in 16-bit types. Channels of images stay.
        """
        more_out = -self.out_channels % multiple
        more_in = -self.in_channels % multiple if self.in_channels > multiple // 2 else 0
        if self.groups != 1 or not (more_out or more_in):
            return
        weight = F.pad(self.weight.detach(), (0, 0, 0, 0, 0, more_in, 0, more_out))
        self.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            bias = F.pad(self.bias.detach(), (0, more_out))
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.in_channels += more_in
        self.out_channels += more_out

    def _cudnn(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """Convolution, bias, sum and ReLU in one kernel of cuDNN's."""
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            other = None if other is None else other.to(dtype)
        padding = cast(Pair, self.padding)
        geometry = (self.stride, padding, self.dilation, self.groups)
        if other is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *geometry)

    def _dtype_of_kernel(self, x: torch.Tensor) -> torch.dtype | None:
        """What the CPU's own kernels would compute in; None where PyTorch's layer runs."""
        if (
            x.device.type != "cpu"
            or torch.is_grad_enabled()
            or x.dim() != 4
            or x.numel() == 0
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            return None
        dtype = x.dtype
        if torch.is_autocast_enabled("cpu"):
            # Not Winograd's algorithm, whose transforms lose 16-bit numbers' few digits.
            dtype = torch.get_autocast_dtype("cpu")
        elif self.weight.dtype != dtype:
            return None
        known = dtype == torch.float32 or (dtype == torch.bfloat16 and computes_bfloat16())
        return dtype if known else None

    def _winograd(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        weight = self._packed.get(
            self.weight, "winograd", lambda: winograd.pack_weight(self.weight)
        )
        y = winograd.winograd_conv3x3(x, weight, self.bias, self.relu and other is None)
        if other is None:
            return y
        y = other.add_(y)
        return y.relu_() if self.relu else y

    def _onednn(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight = self._packed.get(
            self.weight,
            x.dtype,
            lambda: torch.ops.mkldnn._reorder_convolution_weight(
                self.weight.to(x.dtype), *geometry, list(x.shape)
            ),
        )
        bias = None if self.bias is None else self.bias.to(x.dtype)
        activation = "relu" if self.relu else "none"
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *geometry, activation, [], ""
            )
        # The sum is the convolution's own accumulator: no copy, no second pass.
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            other.to(x.dtype).contiguous(memory_format=torch.channels_last),
            x,
            weight,
            bias,
            *geometry,
            "add",
            None,
            "relu" if self.relu else None,
            [],
            None,
        )


def _can_fuse_on_gpu(x: torch.Tensor) -> bool:
    if x.numel() == 0 or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    # In 16-bit types the kernels that fuse are for channels-last maps; others get them converted.
    return x.dtype == torch.float32 or x.is_contiguous(memory_format=torch.channels_last)


def can_fuse(conv: nn.Module) -> bool:
    """Whether :func:`fuse_conv` accepts a layer."""
    activation = getattr(conv, "activation", None)
    return (
        isinstance(conv, nn.Conv2d)
        and type(conv).forward in _FORWARDS
        and type(conv)._conv_forward is nn.Conv2d._conv_forward
        and not has_hooks(conv)
        and not isinstance(conv.padding, str)
        and can_fold(getattr(conv, "norm", None))
        and (activation is None or _is_relu(activation))
    )


def _is_relu(activation: Any) -> bool:
    return activation in (F.relu, F.relu_, torch.relu) or type(activation) is nn.ReLU


def fuse_conv(conv: nn.Conv2d, **kwargs: Any) -> FusedConv2d:
    """A plain convolution, or Detectron2's with its ``norm`` and ``activation``, to one layer.

    Args:
        conv: a layer for which ``can_fuse`` holds.
        kwargs: of ``FusedConv2d``.
    """
    relu = getattr(conv, "activation", None) is not None
    return FusedConv2d(conv, getattr(conv, "norm", None), relu=relu, **kwargs)
