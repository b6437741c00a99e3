"""ROI heads of Faster and Mask R-CNN with MMDetection's assignment and sampling of proposals."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage

from hrnet_d2.modeling.matcher import MaxIoUMatcher

from .detections import DetectionRule, build_detection_rule, detectron2_rule
from .matched_masks import MatchedMasks

__all__ = ["MaxIoUROIHeads", "MaxIoUSampling"]


class MaxIoUSampling:
    """Mixin for ``ROIHeads``: match the proposals, then add the ground truth, then sample.

    Detectron2 adds the ground truth first and matches everything. With low-quality matches that
    would be a different assignment, since every object's best box would be the object itself.
    Follows MMDetection's ``MaxIoUAssigner`` and ``RandomSampler``.
    """

    # Attributes of the ``ROIHeads`` that this is mixed into.
    batch_size_per_image: int
    num_classes: int
    positive_fraction: float
    proposal_append_gt: bool
    proposal_matcher: Matcher

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """As Detectron2's; see :meth:`sample_proposals` for the fields."""
        return self.sample_proposals(proposals, targets, self.proposal_matcher)

    @torch.no_grad()
    def sample_proposals(
        self,
        proposals: list[Instances],
        targets: list[Instances],
        matcher: Matcher,
        suffix: str = "",
    ) -> list[Instances]:
        """
        Args:
            proposals: for each image, with ``proposal_boxes``.
            targets: for each image, with ``gt_boxes``, ``gt_classes`` and other ``gt_*`` fields.
            matcher: assigns ground truth to proposals.
            suffix: appended to the names under which the numbers of samples are logged.

        Returns:
            For each image the sampled proposals, positives first: ``proposal_boxes``,
            ``gt_classes`` (the number of classes is background), ``is_gt`` (bool, true for boxes
            that are ground truth and not proposals), and, if the image has objects, every other
            ``gt_*`` field of the object that the proposal was assigned to.
        """
        sampled, num_fg, num_bg = [], 0, 0
        for proposals_i, targets_i in zip(proposals, targets, strict=True):
            boxes = proposals_i.proposal_boxes.tensor
            matches, labels = matcher(pairwise_iou(targets_i.gt_boxes, proposals_i.proposal_boxes))
            is_gt = torch.zeros_like(matches, dtype=torch.bool)
            num_gt = len(targets_i)
            if self.proposal_append_gt and num_gt:
                boxes = torch.cat([targets_i.gt_boxes.tensor, boxes])
                matches = torch.cat([torch.arange(num_gt, device=matches.device), matches])
                labels = torch.cat([labels.new_ones(num_gt), labels])
                is_gt = torch.cat([is_gt.new_ones(num_gt), is_gt])
            if num_gt:
                classes = targets_i.gt_classes[matches]
                classes = classes.masked_fill(labels == 0, self.num_classes)
                classes = classes.masked_fill(labels == -1, -1)
            else:
                classes = torch.full_like(matches, self.num_classes)

            fg, bg = subsample_labels(
                classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
            )
            num_fg, num_bg = num_fg + len(fg), num_bg + len(bg)
            chosen = torch.cat([fg, bg])
            sample = Instances(proposals_i.image_size)
            sample.proposal_boxes = Boxes(boxes[chosen])
            sample.gt_classes = classes[chosen]
            sample.is_gt = is_gt[chosen]
            if num_gt:
                matches = matches[chosen]
                for name, value in targets_i.get_fields().items():
                    if name.startswith("gt_") and not sample.has(name):
                        lazy = isinstance(value, BitMasks)
                        sample.set(name, MatchedMasks(value, matches) if lazy else value[matches])
            sampled.append(sample)

        storage = get_event_storage()
        storage.put_scalar(f"roi_head/num_fg_samples{suffix}", num_fg / len(proposals))
        storage.put_scalar(f"roi_head/num_bg_samples{suffix}", num_bg / len(proposals))
        return sampled


@ROI_HEADS_REGISTRY.register()
class MaxIoUROIHeads(MaxIoUSampling, StandardROIHeads):
    """Detectron2's ``StandardROIHeads``, trained as MMDetection's ``StandardRoIHead``.

    At test it is Detectron2's, but for ``detection_rule``.
    """

    @configurable
    def __init__(self, *, detection_rule: DetectionRule = detectron2_rule, **kwargs: Any):
        """
        Args:
            detection_rule: selects the detections; Detectron2's by default.
            kwargs: of Detectron2's ``StandardROIHeads``.
        """
        super().__init__(**kwargs)
        self.detection_rule = detection_rule

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret: dict[str, Any] = super().from_config(cfg, input_shape)
        node = cfg.MODEL.ROI_HEADS
        ret["proposal_matcher"] = MaxIoUMatcher(
            node.IOU_THRESHOLDS,
            node.IOU_LABELS,
            allow_low_quality_matches=node.MATCH_LOW_QUALITY,
            # MMDetection's configs set it to the threshold of a positive.
            min_pos_iou=node.IOU_THRESHOLDS[-1],
        )
        ret["detection_rule"] = build_detection_rule(cfg)
        return ret

    def _forward_box(self, features: dict[str, torch.Tensor], proposals: list[Instances]) -> Any:
        """As Detectron2's: losses in training, otherwise detections without masks."""
        if self.training:
            return super()._forward_box(features, proposals)
        boxes, scores = self.predict_boxes(features, proposals)
        predictor = self.box_predictor
        return self.detection_rule(
            boxes,
            scores,
            [p.image_size for p in proposals],
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )

    def predict_boxes(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """What the box head makes of every proposal, at test.

        Returns:
            For each image boxes (R, K * 4), or (R, 4) for all K classes, in pixels of the network's
            input and not clipped; and probabilities (R, K + 1), the background last.
        """
        maps = [features[name] for name in self.box_in_features]
        x = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        predictor = self.box_predictor
        predictions = predictor(self.box_head(x))
        return (
            predictor.predict_boxes(predictions, proposals),
            predictor.predict_probs(predictions, proposals),
        )
