"""HRFPN: the neck of HRNetV2p.

All branches are upsampled to the finest resolution, concatenated and mixed by a 1x1 convolution;
the pyramid is that one map pooled to coarser strides (Sun et al., "High-Resolution Representations
for Labeling Pixels and Regions", https://arxiv.org/abs/1904.04514). Follows MMDetection's
``HRFPN`` exactly: bilinear upsampling without aligned corners, average pooling straight from the
mixed map, floor sizes, no activation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn import weight_init
from torch import nn

from hrnet_d2.config_parts import head_levels

from .hrnet import LEVELS, HRNet
from .levels import Levels

__all__ = ["HRFPN", "build_hrnetv2p_backbone"]

POOLING: dict[str, Callable[..., torch.Tensor]] = {"avg": F.avg_pool2d, "max": F.max_pool2d}
ACTIVATIONS = {"": None, "relu": F.relu}


class HRFPN(Backbone):
    """A backbone with HRFPN on top: levels "p2" ... at strides 4, 8, ... or, with ``stride=2``,
    "p3" ... at strides 8, 16, ....

    Strides are nominal: the size of a coarse level is the input's divided by its stride, rounded
    down, as in MMDetection.

    Attributes:
        out_channels: of every level.
    """

    _readers: Mapping[str, Sequence[str]] | None = None

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str] = LEVELS,
        *,
        out_channels: int = 256,
        num_outs: int = 5,
        stride: int = 1,
        norm: str | Callable[[int], nn.Module] = "",
        activation: str | Callable[[torch.Tensor], torch.Tensor] | None = "",
        pooling: str = "avg",
        concat: bool = True,
    ):
        """
        Args:
            bottom_up: the backbone; each of its levels must have half the resolution of the one
                before.
            in_features: the backbone's levels to use, finest first.
            out_channels: of every output level.
            num_outs: number of output levels.
            stride: of the output convolutions, 1 (two-stage detectors) or 2 (FCOS).
            norm: name or factory of a normalization layer after each convolution; "" is none.
            activation: "" (none), "relu" or a callable, after each convolution.
            pooling: "avg" or "max", to the coarser levels.
            concat: concatenate the upsampled branches before the 1x1 convolution. False mixes
                each at its own resolution, then upsamples and sums, which commutes: the same to
                rounding, less memory in training.

        Raises:
            ValueError: if an argument is not one of the above, or the strides do not fit.
        """
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"HRFPN's stride must be 1 or 2, got {stride}")
        if pooling not in POOLING:
            raise ValueError(f"HRFPN's pooling must be one of {sorted(POOLING)}, got {pooling!r}")
        if isinstance(activation, str):
            if activation not in ACTIVATIONS:
                known = sorted(ACTIVATIONS)
                raise ValueError(f"HRFPN's activation must be one of {known}, got {activation!r}")
            activation = ACTIVATIONS[activation]
        shapes = bottom_up.output_shape()
        missing = [name for name in in_features if name not in shapes]
        if missing or not in_features:
            raise ValueError(f"HRFPN's in_features {missing} are not among {sorted(shapes)}")
        strides = [shapes[name].stride for name in in_features]
        if strides != [strides[0] * 2**i for i in range(len(strides))]:
            raise ValueError(f"HRFPN's levels must halve in resolution, got strides {strides}")

        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.out_channels = out_channels
        self.stride = stride
        self.pool = POOLING[pooling]
        self.concat = concat
        bias = norm == ""
        self.reduction_conv = Conv2d(
            sum(shapes[name].channels for name in in_features),
            out_channels,
            kernel_size=1,
            bias=bias,
            norm=get_norm(norm, out_channels),
            activation=activation,
        )
        weight_init.c2_xavier_fill(self.reduction_conv)
        finest = (strides[0] * stride).bit_length() - 1  # log2 of the finest output stride
        self._out_features = [f"p{finest + i}" for i in range(num_outs)]
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._out_feature_strides = {f"p{finest + i}": 2 ** (finest + i) for i in range(num_outs)}
        for name in self._out_features:
            conv = Conv2d(
                out_channels,
                out_channels,
                kernel_size=3,
                padding=1,
                stride=stride,
                bias=bias,
                norm=get_norm(norm, out_channels),
                activation=activation,
            )
            weight_init.c2_xavier_fill(conv)
            self.add_module(f"fpn_output{name[1:]}", conv)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        bottom_up = HRNet(cfg, input_shape)
        node = cfg.MODEL.HRNETV2P.NECK
        return {
            "bottom_up": bottom_up,
            "in_features": list(bottom_up.output_shape()),
            "out_channels": node.OUT_CHANNELS,
            "num_outs": node.NUM_OUTS,
            "stride": node.STRIDE,
            "norm": node.NORM,
            "activation": node.ACTIVATION,
            "pooling": node.POOLING,
            "concat": node.CONCAT,
        }

    @property
    def size_divisibility(self) -> int:
        """MMDetection pads to the backbone's 32, whatever the stride of the coarsest level."""
        return self.bottom_up.size_divisibility

    def output_shape(self) -> Levels:
        """Name to channels and stride of each level; a level that is missing is explained."""
        remedy = (
            f"MODEL.HRNETV2P.NECK.STRIDE (stride) is {self.stride}: 1 makes p2 ... p6, 2 makes "
            "p3 ... p7, as RetinaNet and FCOS read, and NECK.NUM_OUTS (num_outs) says how many. "
            "Set them, or the head's IN_FEATURES"
        )
        return Levels(super().output_shape(), remedy, self._readers)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: normalized images (N, C, H, W), H and W multiples of 32.

        Returns:
            Name to (N, out_channels, h, w), finest level first.
        """
        features = self.bottom_up(x)
        mixed = self._mix([features[name] for name in self.in_features])
        outputs = {}
        for i, name in enumerate(self._out_features):
            if i == 0:
                pooled = mixed
            else:
                # A very thin image has fewer rows (or columns) than the coarsest window: pool all.
                window = [min(2**i, size) for size in mixed.shape[-2:]]
                pooled = self.pool(mixed, kernel_size=window, stride=window)
            outputs[name] = getattr(self, f"fpn_output{name[1:]}")(pooled)
        return outputs

    def _mix(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Branches, finest first, to one map (N, out_channels, H, W) at the finest resolution."""
        if self.concat:
            upsampled = [upsample(m, 2**i) for i, m in enumerate(maps[1:], start=1)]
            return self.reduction_conv(torch.cat([maps[0], *upsampled], dim=1))
        conv = self.reduction_conv
        weights = conv.weight.split([m.shape[1] for m in maps], dim=1)
        mixed = F.conv2d(maps[0], weights[0], conv.bias)
        for i, (m, weight) in enumerate(zip(maps[1:], weights[1:], strict=True), start=1):
            mixed += upsample(F.conv2d(m, weight), 2**i)
        if conv.norm is not None:
            mixed = conv.norm(mixed)
        return mixed if conv.activation is None else conv.activation(mixed)


def upsample(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Bilinear, without aligned corners: (N, C, H, W) to (N, C, factor * H, factor * W)."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


@BACKBONE_REGISTRY.register()
def build_hrnetv2p_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRFPN:
    """Backbone and HRFPN from ``cfg.MODEL.HRNETV2P``: "p2" ... "p6", or "p3" ... "p7"."""
    backbone = HRFPN(cfg, input_shape)
    backbone._readers = head_levels(cfg)
    return backbone
