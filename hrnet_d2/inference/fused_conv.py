"""Convolution for inference: normalization folded in, sum and ReLU in the same pass."""

import copy
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import nn

from hrnet_d2.layers.norm_folding import can_fold, scale_and_offset

from . import winograd

Pair: TypeAlias = tuple[int, int]

__all__ = ["FusedConv2d", "can_fuse", "fuse_conv", "version_of"]


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


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor's memory was written; 0 for one of inference mode, which has no count."""
    return 0 if tensor.is_inference() else tensor._version


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )


class FusedConv2d(nn.Conv2d):
    """``relu(norm(conv(x)) + other)`` with normalization, sum and ReLU part of the convolution.

    On the CPU, in float32 and without gradients, large 3x3 layers run Winograd's algorithm and the
    rest oneDNN's kernels with the weights laid out once; elsewhere PyTorch's convolution runs.
    The layout is made again when the weights have changed.
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
        self.use_onednn = _has_onednn() and conv.padding_mode == "zeros"
        self.use_onednn = self.use_onednn and not isinstance(conv.padding, str)
        self.use_cudnn = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        self._packed: torch.Tensor | None = None
        self._packed_from: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # oneDNN's tensors can be neither copied nor saved; they are made again.
        return {**super().__getstate__(), "_packed": None}

    def _apply(self, *args: Any, **kwargs: Any) -> "FusedConv2d":
        self._packed = None
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
        plain = (
            x.device.type != "cpu"
            or x.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or torch.is_grad_enabled()
            or x.numel() == 0
            or torch.compiler.is_compiling()
        )
        if not plain and (self.use_winograd or self.use_onednn):
            weight = (self.weight.data_ptr(), version_of(self.weight))
            if self._packed_from != weight:
                self._packed, self._packed_from = None, weight
            return self._winograd(x, other) if self.use_winograd else self._onednn(x, other)
        if self.use_cudnn and self.relu and x.device.type == "cuda" and _can_fuse_on_gpu(x):
            try:
                return self._cudnn(x, other)
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
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        if other is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *geometry)

    def _winograd(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        if self._packed is None:
            self._packed = winograd.transform_weight(self.weight)
        y = winograd.winograd_conv3x3(x, self._packed, self.bias, self.relu and other is None)
        if other is None:
            return y
        y = other.add_(y)
        return y.relu_() if self.relu else y

    def _onednn(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        activation = "relu" if self.relu else "none"
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self._packed, self.bias, *geometry, activation, [], ""
            )
        # The sum is the convolution's own accumulator: no copy, no second pass.
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            other.contiguous(memory_format=torch.channels_last),
            x,
            self._packed,
            self.bias,
            *geometry,
            "add",
            None,
            "relu" if self.relu else None,
            [],
            None,
        )


def _can_fuse_on_gpu(x: torch.Tensor) -> bool:
    if x.numel() == 0 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    # In 16-bit types the kernels that fuse are for channels-last maps; others get them converted.
    return x.dtype == torch.float32 or x.is_contiguous(memory_format=torch.channels_last)


def can_fuse(conv: nn.Module) -> bool:
    """Whether :func:`fuse_conv` accepts a layer."""
    activation = getattr(conv, "activation", None)
    return (
        isinstance(conv, nn.Conv2d)
        and not isinstance(conv, FusedConv2d)
        and not isinstance(conv.padding, str)
        and can_fold(getattr(conv, "norm", None))
        and (activation is None or _is_relu(activation))
    )


def _is_relu(activation: Any) -> bool:
    return activation in (F.relu, F.relu_, torch.relu) or isinstance(activation, nn.ReLU)


def fuse_conv(conv: nn.Conv2d, **kwargs: Any) -> FusedConv2d:
    """A plain convolution, or Detectron2's with its ``norm`` and ``activation``, to one layer.

    Args:
        conv: a layer for which ``can_fuse`` holds.
        kwargs: of ``FusedConv2d``.
    """
    relu = getattr(conv, "activation", None) is not None
    return FusedConv2d(conv, getattr(conv, "norm", None), relu=relu, **kwargs)
