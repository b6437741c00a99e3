"""ROI heads of MMDetection 1.x: clipping, RoIAlign and the last NMS."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROIHeads
from detectron2.structures import Boxes, Instances

from hrnet_d2.modeling.roi_heads.cascade_rcnn import MaxIoUCascadeROIHeads
from hrnet_d2.modeling.roi_heads.detections import SuppressionRule, build_suppression
from hrnet_d2.modeling.roi_heads.htc import HTCROIHeads
from hrnet_d2.modeling.roi_heads.roi_heads import MaxIoUROIHeads

from .boxes import BoxTransform, clip, scale_of, to_network, to_original
from .pooling import MMDet1ROIPooler

__all__ = ["MMDet1CascadeROIHeads", "MMDet1HTCROIHeads", "MMDet1ROIHeads", "OriginalImageRule"]


class OriginalImageRule(SuppressionRule):
    """Detections whose NMS runs on boxes of the original image, with 1.x's IoU there.

    The sizes of images are :class:`ResizedSize`.
    """

    def clip(self, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return to_original(clip(boxes, size), scale_of(size))

    def to_input(self, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return to_network(boxes, scale_of(size))


class _MMDet1Heads(ROIHeads):
    """Mixin for ROI heads: what all of them do differently in 1.x."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret: dict[str, Any] = super().from_config(cfg, input_shape)
        for name in ("box_pooler", "mask_pooler", "semantic_pooler"):
            if ret.get(name) is not None:
                ret[name] = MMDet1ROIPooler(ret[name])
        # A cascade has a list of them.
        for predictor in ret.get("box_predictors") or [ret["box_predictor"]]:
            predictor.box2box_transform = BoxTransform(predictor.box2box_transform.weights)
        ret["detection_rule"] = OriginalImageRule(build_suppression(cfg))
        return ret


@ROI_HEADS_REGISTRY.register()
class MMDet1ROIHeads(_MMDet1Heads, MaxIoUROIHeads):
    """ROI heads of Faster and Mask R-CNN of MMDetection 1.x."""


class _MMDet1Cascade(_MMDet1Heads):
    """Mixin for cascades: the boxes between the stages."""

    def _create_proposals_from_boxes(
        self, boxes: Sequence[torch.Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        return [
            Instances(size, proposal_boxes=Boxes(clip(boxes_i, size)))
            for boxes_i, size in zip(boxes, image_sizes, strict=True)
        ]


@ROI_HEADS_REGISTRY.register()
class MMDet1CascadeROIHeads(_MMDet1Cascade, MaxIoUCascadeROIHeads):
    """ROI heads of Cascade and Cascade Mask R-CNN of MMDetection 1.x."""


@ROI_HEADS_REGISTRY.register()
class MMDet1HTCROIHeads(_MMDet1Cascade, HTCROIHeads):
    """ROI heads of Hybrid Task Cascade of MMDetection 1.x."""
