"""Region proposal network with MMDetection's assignment of anchors.

At test it is Detectron2's RPN, which proposes the same boxes as MMDetection's. In training it
differs in which anchors take part, in low-quality matches and in the normalizer of the losses; each
difference is a key of ``MODEL.RPN``.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.memory import retry_if_cuda_oom

from hrnet_d2.modeling.arithmetic import check_arithmetic
from hrnet_d2.modeling.matcher import MaxIoUMatcher

__all__ = ["MaxIoURPN"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class MaxIoURPN(RPN):
    """Detectron2's RPN, trained as MMDetection's ``RPNHead`` with ``MaxIoUAssigner``.

    R = number of anchors of all levels.
    """

    arithmetic = "mmdet2"

    @configurable
    def __init__(
        self,
        *,
        match_valid_anchors: bool = True,
        loss_normalizer: str = "sampled",
        size_divisibility: int = 32,
        **kwargs: Any,
    ):
        """
        Args:
            match_valid_anchors: do not match anchors whose cell lies outside the image's own padded
                area, nor, with ``anchor_boundary_thresh >= 0``, anchors that cross the image's
                border by more than that. Otherwise as Detectron2: all anchors are matched, and
                those that cross the border are discarded afterwards.
            loss_normalizer: "sampled" divides by the number of sampled anchors (at least one
                positive and one negative for each image); "batch_size" divides by the configured
                number, as Detectron2 does.
            size_divisibility: of the backbone: an image's height and width are padded to the next
                multiple of it. 0 or 1 is no padding. ``hrnet_d2.modeling.build_model`` sets it.
            kwargs: of Detectron2's ``RPN``.

        Raises:
            ValueError: if ``loss_normalizer`` is neither.
        """
        super().__init__(**kwargs)
        if loss_normalizer not in ("sampled", "batch_size"):
            raise ValueError(
                "MODEL.RPN.LOSS_NORMALIZER must be 'sampled' or 'batch_size', got "
                f"{loss_normalizer!r}"
            )
        self.match_valid_anchors = match_valid_anchors
        self.loss_normalizer = loss_normalizer
        self.size_divisibility = size_divisibility

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        check_arithmetic(cfg, cls.arithmetic)
        ret: dict[str, Any] = super().from_config(cfg, input_shape)
        if cfg.MODEL.RPN.MIN_POS_IOU >= 0:
            ret["anchor_matcher"] = MaxIoUMatcher(
                cfg.MODEL.RPN.IOU_THRESHOLDS,
                cfg.MODEL.RPN.IOU_LABELS,
                allow_low_quality_matches=True,
                min_pos_iou=cfg.MODEL.RPN.MIN_POS_IOU,
            )
        ret["match_valid_anchors"] = cfg.MODEL.RPN.MATCH_VALID_ANCHORS
        ret["loss_normalizer"] = cfg.MODEL.RPN.LOSS_NORMALIZER
        return ret

    def _cell_origins(self, anchors: list[Boxes]) -> torch.Tensor:
        """(R, 2) x and y, in pixels, of the top left corner of each anchor's cell."""
        origins = []
        for boxes, stride in zip(anchors, self.anchor_generator.strides, strict=True):
            origins.append(boxes.get_centers() - self.anchor_generator.offset * stride)
        return torch.cat(origins)

    def _valid_anchors(
        self, anchors: Boxes, origins: torch.Tensor, image_size: tuple[int, int]
    ) -> torch.Tensor:
        """(R,) bool: the anchors that may be matched in an image of (height, width) pixels."""
        divisor = max(1, self.size_divisibility)
        height, width = (-(-size // divisor) * divisor for size in image_size)
        # Corners of cells are multiples of the stride: half a pixel is enough against rounding.
        valid = (origins[:, 0] < width - 0.5) & (origins[:, 1] < height - 0.5)
        if self.anchor_boundary_thresh >= 0:
            valid &= anchors.inside_box(image_size, self.anchor_boundary_thresh)
        return valid

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """As Detectron2's: for each image (R,) labels in {-1, 0, 1}, and (R, 4) matched boxes."""
        if not self.match_valid_anchors:
            return super().label_and_sample_anchors(anchors, gt_instances)
        origins = self._cell_origins(anchors)
        boxes = Boxes.cat(anchors)
        labels, matched_boxes = [], []
        # Images of a batch often have the same size.
        valid_of_size: dict[tuple[int, int], torch.Tensor] = {}
        for instances in gt_instances:
            size, gt_boxes = instances.image_size, instances.gt_boxes
            if size not in valid_of_size:
                valid_of_size[size] = self._valid_anchors(boxes, origins, size)
            valid = valid_of_size[size]
            iou = retry_if_cuda_oom(pairwise_iou)(gt_boxes, boxes)
            # A negative IoU excludes an anchor without copying all the others.
            iou.masked_fill_(~valid.to(iou.device), -1.0)
            matches, label = retry_if_cuda_oom(self.anchor_matcher)(iou)
            del iou
            label = label.to(boxes.device).masked_fill_(~valid, -1)
            labels.append(self._subsample_labels(label))
            matched_boxes.append(
                gt_boxes.tensor[matches.to(boxes.device)]
                if len(gt_boxes)
                else torch.zeros_like(boxes.tensor)
            )
        return labels, matched_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """As Detectron2's, with ``loss_normalizer`` "sampled" divided by the sampled anchors."""
        losses: dict[str, torch.Tensor] = super().losses(
            anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes
        )
        if self.loss_normalizer == "batch_size":
            return losses
        labels = torch.stack(gt_labels)
        sampled = sum((labels == value).sum(dim=1).clamp(min=1).sum() for value in (0, 1))
        factor = self.batch_size_per_image * len(gt_labels) / sampled
        return {name: loss * factor for name, loss in losses.items()}
