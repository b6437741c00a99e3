"""Anchors of MMDetection 1.x: its ``AnchorGenerator``, in half-open boxes."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import BufferList, DefaultAnchorGenerator

from hrnet_d2.modeling.proposal_generator.anchors import RatioMajorAnchorGenerator

__all__ = ["MMDet1AnchorGenerator", "MMDet1RatioMajorAnchorGenerator"]


@ANCHOR_GENERATOR_REGISTRY.register()
class MMDet1AnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's anchors around the center of each cell, with corners at whole pixels."""

    cell_anchors: BufferList

    @configurable
    def __init__(self, *, strides: Sequence[int], **kwargs: Any):
        """
        Args:
            strides: of each level of features.
            kwargs: ``sizes`` and ``aspect_ratios`` of ``DefaultAnchorGenerator``.
        """
        super().__init__(strides=strides, offset=0.0, **kwargs)
        # The centers are part of the rounded corners; what is left are shifts by whole strides.
        self.cell_anchors = BufferList(
            [
                (anchors + 0.5 * stride).round()
                for anchors, stride in zip(self.cell_anchors, strides, strict=True)
            ]
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        ret: dict[str, Any] = super().from_config(cfg, input_shape)
        del ret["offset"]
        return ret


@ANCHOR_GENERATOR_REGISTRY.register()
class MMDet1RatioMajorAnchorGenerator(MMDet1AnchorGenerator, RatioMajorAnchorGenerator):
    """:class:`MMDet1AnchorGenerator` with all sizes of a ratio before the next ratio, as 1.x had
    several of both."""
