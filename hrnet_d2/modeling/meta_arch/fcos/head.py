"""The head of FCOS: two towers of convolutions, shared by every level of the pyramid.

Shapes: N images, C classes, and Hl and Wl rows and columns of level l.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import nn

__all__ = ["FCOSHead", "Predictions", "Scale"]

# For each level: logits of the classes, distances to the sides, logits of the centerness.
Predictions = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


class Scale(nn.Module):
    """One learnable factor, of shape () as in the published checkpoints."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class FCOSHead(nn.Module):
    """Class, box and centerness of every location (Tian et al., "FCOS: Fully Convolutional
    One-Stage Object Detection", https://arxiv.org/abs/1904.01355).

    Follows MMDetection's ``FCOSHead``: convolutions without bias before a normalization layer, a
    learnable scale for each level, distances in pixels through the exponential, centerness on the
    tower of the classes.
    """

    @configurable
    def __init__(
        self,
        input_shape: Sequence[ShapeSpec],
        *,
        num_classes: int = 80,
        num_convs: int = 4,
        norm: str | Callable[[int], nn.Module] = "GN",
        prior_prob: float = 0.01,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
    ):
        """
        Args:
            input_shape: of each level: its channels (the same for all) and its stride.
            num_classes: C.
            num_convs: convolutions in each tower; 0 predicts straight from the features.
            norm: name or factory of the normalization layer after each; "" is none.
            prior_prob: probability of every class at the start of training.
            norm_on_bbox: regress through ReLU in units of the level's stride, instead of through
                the exponential in pixels.
            centerness_on_reg: predict the centerness from the tower of the boxes.

        Raises:
            ValueError: if levels differ in channels, or an argument is out of range.
        """
        super().__init__()
        of_levels = {shape.channels for shape in input_shape}
        if len(of_levels) != 1:
            raise ValueError(f"FCOSHead needs levels of equal channels, got {sorted(of_levels)}")
        if num_classes < 1 or num_convs < 0 or not 0 < prior_prob < 1:
            raise ValueError(
                f"FCOSHead needs num_classes >= 1, num_convs >= 0 and 0 < prior_prob < 1, got "
                f"{num_classes}, {num_convs}, {prior_prob}"
            )
        channels = of_levels.pop()
        self.strides = [shape.stride for shape in input_shape]
        self.norm_on_bbox = norm_on_bbox
        self.centerness_on_reg = centerness_on_reg

        self.cls_subnet = self._tower(channels, num_convs, norm)
        self.bbox_subnet = self._tower(channels, num_convs, norm)
        self.cls_score = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, 4, 3, padding=1)
        self.ctrness = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in input_shape)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert self.cls_score.bias is not None
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.FCOS
        return {
            "input_shape": input_shape,
            "num_classes": node.NUM_CLASSES,
            "num_convs": node.NUM_CONVS,
            "norm": node.NORM,
            "prior_prob": node.PRIOR_PROB,
            "norm_on_bbox": node.NORM_ON_BBOX,
            "centerness_on_reg": node.CENTERNESS_ON_REG,
        }

    @staticmethod
    def _tower(
        channels: int, num_convs: int, norm: str | Callable[[int], nn.Module]
    ) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            norm_layer = get_norm(norm, channels)
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=norm_layer is None))
            if norm_layer is not None:
                layers.append(norm_layer)
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers)

    def forward(self, features: Sequence[torch.Tensor]) -> Predictions:
        """
        Args:
            features: of each level, (N, channels, Hl, Wl).

        Returns:
            For each level: logits of the classes (N, C, Hl, Wl); distances from a location to the
            left, top, right and bottom of its box in pixels of the network's input, float32
            (N, 4, Hl, Wl); logits of the centerness (N, 1, Hl, Wl).
        """
        if len(features) != len(self.scales):
            raise ValueError(f"FCOSHead needs {len(self.scales)} levels, got {len(features)}")
        logits, distances, ctrness = [], [], []
        for feature, scale, stride in zip(features, self.scales, self.strides, strict=True):
            cls_tower = self.cls_subnet(feature)
            box_tower = self.bbox_subnet(feature)
            logits.append(self.cls_score(cls_tower))
            ctrness.append(self.ctrness(box_tower if self.centerness_on_reg else cls_tower))
            # float32 even under autocast: the exponential overflows in half precision.
            raw = scale(self.bbox_pred(box_tower).float())
            distances.append(raw.relu() * stride if self.norm_on_bbox else raw.exp())
        return logits, distances, ctrness
