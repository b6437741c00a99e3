"""Large linear layers by oneDNN, for CPUs."""

import torch
from torch import nn

from hrnet_d2.layers.cpu_training import SMALLEST_LINEAR, CPULinear
from hrnet_d2.layers.onednn import linear, multiplies_faster, pack_linear

from .packed_weight import PackedWeight

__all__ = ["FusedLinear", "is_large"]

# Regions at a time, about, that the layout is chosen for.
ROWS = 1000


def is_large(layer: nn.Module) -> bool:
    """Whether :class:`FusedLinear` speeds a layer up."""
    plain = type(layer) in (nn.Linear, CPULinear)
    large = plain and layer.get_parameter("weight").numel() >= SMALLEST_LINEAR
    return large and multiplies_faster()


class FusedLinear(nn.Linear):
    """``nn.Linear``; on the CPU, in float32 and without gradients by oneDNN.

    The weight is laid out once, and again when it has changed.
    """

    def __init__(self, layer: nn.Linear):
        """
        Args:
            layer: gives the weights.
        """
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
        bias = layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._packed: PackedWeight[torch.Tensor] = PackedWeight()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (..., in_features).

        Returns:
            (..., out_features).
        """
        if (
            x.device.type != "cpu"
            or x.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or x.numel() == 0
            or x.dim() != 2
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            return super().forward(x)
        weight = self._packed.get(self.weight, None, lambda: pack_linear(self.weight, ROWS))
        return linear(x, weight, self.bias)
