"""Region proposals of MMDetection 1.x."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import Boxes, Instances

from hrnet_d2.modeling.proposal_generator.rpn import MaxIoURPN

from .boxes import BoxTransform, clip

__all__ = ["MMDet1RPN"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class MMDet1RPN(MaxIoURPN):
    """:class:`MaxIoURPN` that clips its proposals as 1.x does."""

    arithmetic = "mmdet1"

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret = super().from_config(cfg, input_shape)
        ret["box2box_transform"] = BoxTransform(weights=cfg.MODEL.RPN.BBOX_REG_WEIGHTS)
        return ret

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """As Detectron2's.  Its own clipping, to wider limits, finds nothing left to clip."""
        levels = [
            torch.stack([clip(boxes, size) for boxes, size in zip(level, image_sizes, strict=True)])
            for level in self._decode_proposals(anchors, pred_anchor_deltas)
        ]
        return find_top_rpn_proposals(
            levels,
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )
