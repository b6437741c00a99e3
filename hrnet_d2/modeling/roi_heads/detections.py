"""From decoded boxes and probabilities to detections: threshold, NMS, the best few.

R = number of boxes of an image, K = number of classes, M = number of candidates.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torchvision.ops import clip_boxes_to_image

from hrnet_d2.layers.nms import batched_nms_in_double

from .soft_nms import soft_nms

__all__ = [
    "DetectionRule",
    "Suppress",
    "SuppressionRule",
    "build_detection_rule",
    "build_suppression",
    "detectron2_rule",
    "select_detections",
]

# From boxes (M, 4), scores (M,), classes (M,), an IoU and the number of detections wanted (negative
# is all) to indices of the boxes that stay and their scores, sorted by descending score.
Suppress = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, float, int], tuple[torch.Tensor, torch.Tensor]
]


class DetectionRule(Protocol):
    """What ROI heads apply to the boxes and scores of their (last) stage."""

    def __call__(
        self,
        boxes: Sequence[torch.Tensor],
        scores: Sequence[torch.Tensor],
        image_sizes: Sequence[tuple[int, int]],
        score_thresh: float,
        nms_thresh: float,
        topk: int,
    ) -> list[Instances]:
        """
        Args:
            boxes: of each image (R, K * 4), or (R, 4) for all classes, in pixels of the input.
            scores: of each image (R, K + 1) probabilities, the background last.
            image_sizes: height and width of each image.
            score_thresh: a candidate's score must be above it.
            nms_thresh: IoU of boxes of a class above which the lower score is suppressed.
            topk: detections of an image, at most; negative is no limit.

        Returns:
            For each image ``pred_boxes``, ``scores`` and ``pred_classes``, sorted by descending
            score.
        """


def detectron2_rule(
    boxes: Sequence[torch.Tensor],
    scores: Sequence[torch.Tensor],
    image_sizes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> list[Instances]:
    """Detectron2's own, a :class:`DetectionRule`."""
    detections: list[Instances]
    detections, _ = fast_rcnn_inference(boxes, scores, image_sizes, score_thresh, nms_thresh, topk)
    return detections


class SuppressionRule:
    """A :class:`DetectionRule` with another kind of NMS."""

    def __init__(self, suppress: Suppress):
        """
        Args:
            suppress: the kind of NMS.
        """
        self.suppress = suppress

    def __call__(
        self,
        boxes: Sequence[torch.Tensor],
        scores: Sequence[torch.Tensor],
        image_sizes: Sequence[tuple[int, int]],
        score_thresh: float,
        nms_thresh: float,
        topk: int,
    ) -> list[Instances]:
        results = []
        for boxes_i, scores_i, size in zip(boxes, scores, image_sizes, strict=True):
            kept, kept_scores, classes = select_detections(
                self.clip(boxes_i.unflatten(-1, (-1, 4)), size),
                scores_i,
                score_thresh,
                nms_thresh,
                topk,
                self.suppress,
            )
            instances = Instances(size)
            instances.pred_boxes = Boxes(self.to_input(kept, size))
            instances.scores = kept_scores
            instances.pred_classes = classes
            results.append(instances)
        return results

    def clip(self, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The boxes (..., 4) that NMS compares."""
        return clip_boxes_to_image(boxes, size)

    def to_input(self, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Boxes of :meth:`clip` in pixels of the input."""
        return boxes


def select_detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    score_thresh: float,
    nms_thresh: float,
    topk: int,
    suppress: Suppress,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The detections of one image.

    Args:
        boxes: (R, K, 4), or (R, 1, 4) for all classes; not clipped here.
        scores: (R, K + 1) probabilities, the background last.
        score_thresh, nms_thresh, topk: as in :class:`DetectionRule`.
        suppress: the kind of NMS.

    Returns:
        Boxes, scores and classes, sorted by descending score. Rows that are not finite are dropped.
    """
    finite = boxes.isfinite().flatten(1).all(dim=1) & scores.isfinite().all(dim=1)
    row, classes = ((scores[:, :-1] > score_thresh) & finite[:, None]).nonzero(as_tuple=True)
    candidates = boxes[row, classes if boxes.shape[1] > 1 else 0]
    keep, kept_scores = suppress(candidates, scores[row, classes], classes, nms_thresh, topk)
    return candidates[keep], kept_scores, classes[keep]


def hard_nms(
    boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, iou: float, topk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual NMS, a ``Suppress``."""
    keep = batched_nms_in_double(boxes, scores, classes, iou)
    keep = keep[:topk] if topk >= 0 else keep
    return keep, scores[keep]


class SoftSuppression:
    """:func:`soft_nms` with its least score, a ``Suppress``."""

    def __init__(self, min_score: float):
        self.min_score = min_score

    def __call__(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        classes: torch.Tensor,
        iou: float,
        topk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return soft_nms(boxes, scores, classes, iou, self.min_score, topk)


def build_suppression(cfg: CfgNode) -> Suppress:
    """The NMS of ``cfg.MODEL.ROI_HEADS.SOFT_NMS``."""
    node = cfg.MODEL.ROI_HEADS.SOFT_NMS
    return SoftSuppression(node.MIN_SCORE) if node.ENABLED else hard_nms


def build_detection_rule(cfg: CfgNode) -> DetectionRule:
    """Detectron2's rule, or with ``cfg.MODEL.ROI_HEADS.SOFT_NMS.ENABLED`` one with soft NMS."""
    if cfg.MODEL.ROI_HEADS.SOFT_NMS.ENABLED:
        return SuppressionRule(build_suppression(cfg))
    return detectron2_rule
