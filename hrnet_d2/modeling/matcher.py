"""Assigns ground truth to anchors and proposals as MMDetection's ``MaxIoUAssigner`` does.

M = number of ground-truth boxes, R = number of anchors or proposals.
"""

import torch
from detectron2.modeling.matcher import Matcher

__all__ = ["MaxIoUMatcher"]


class MaxIoUMatcher(Matcher):
    """Detectron2's ``Matcher`` with MMDetection's rule for low-quality matches.

    If an object's best IoU reaches ``min_pos_iou``, every box with exactly that IoU becomes a
    positive *of that object*, even if the box overlaps another object more; of several such
    objects the last wins. Detectron2's own matcher has no such minimum, and assigns the box to
    the object that it overlaps most.
    """

    def __init__(
        self,
        thresholds: list[float],
        labels: list[int],
        allow_low_quality_matches: bool = False,
        min_pos_iou: float = 0.0,
    ):
        """
        Args:
            thresholds: IoUs that separate the labels, as in Detectron2's ``Matcher``.
            labels: one more than thresholds, of -1 (ignored), 0 (negative) and 1 (positive).
            allow_low_quality_matches: whether objects take the boxes that overlap them most.
            min_pos_iou: the least IoU at which they do.
        """
        super().__init__(list(thresholds), list(labels), allow_low_quality_matches)
        self.min_pos_iou = min_pos_iou

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            match_quality_matrix: (M, R) IoU; a negative column is a box that nothing may match.

        Returns:
            (R,) int64 indices of ground truth, and (R,) int8 labels; the indices are meaningful
            where the label is 1.
        """
        if match_quality_matrix.numel() == 0:
            return super().__call__(match_quality_matrix)
        values, matches = match_quality_matrix.max(dim=0)
        labels = torch.full_like(matches, self.labels[0], dtype=torch.int8)
        # Detectron2's constructor adds -inf and inf as the outer thresholds.
        for label, low in zip(self.labels[1:], self.thresholds[1:-1], strict=True):
            labels.masked_fill_(values >= low, label)
        if self.allow_low_quality_matches:
            best = match_quality_matrix.amax(dim=1, keepdim=True)
            taken = (match_quality_matrix == best) & (best >= self.min_pos_iou)
            index = torch.arange(len(best), dtype=torch.int32, device=best.device)[:, None]
            taker = torch.where(taken, index, -1).amax(dim=0)
            matches = torch.where(taker >= 0, taker.long(), matches)
            labels.masked_fill_(taker >= 0, 1)
        return matches, labels
