"""Anchors of several scales and ratios in MMDetection's order."""

import torch
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

__all__ = ["RatioMajorAnchorGenerator"]


@ANCHOR_GENERATOR_REGISTRY.register()
class RatioMajorAnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's anchors, all sizes of a ratio before the next ratio.

    The outputs of an RPN are in the order of its anchors: this is MMDetection's
    (``AnchorGenerator`` with ``scale_major=True``), Detectron2's has all ratios of a size first.
    With one size, or one ratio, both are the same.
    """

    def generate_cell_anchors(
        self,
        sizes: tuple[float, ...] = (32, 64, 128, 256, 512),
        aspect_ratios: tuple[float, ...] = (0.5, 1, 2),
    ) -> torch.Tensor:
        """(sizes * ratios, 4) anchors of one cell, centered at the origin, XYXY."""
        anchors: torch.Tensor = super().generate_cell_anchors(sizes, aspect_ratios)
        return anchors.view(len(sizes), len(aspect_ratios), 4).transpose(0, 1).reshape(-1, 4)
