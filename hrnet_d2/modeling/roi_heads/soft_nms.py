"""Soft-NMS: overlapping detections lose score instead of being removed.

Bodla et al., "Soft-NMS -- Improving Object Detection With One Line of Code",
https://arxiv.org/abs/1704.04503; follows MMDetection's ``soft_nms`` with the linear method.
"""

import torch

__all__ = ["soft_nms"]


def soft_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    classes: torch.Tensor,
    iou_thresh: float,
    min_score: float,
    topk: int = -1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear Soft-NMS of each class by itself, all classes side by side.

    The best box of a class is selected; the others' scores are multiplied by 1 - IoU with it where
    the IoU exceeds the threshold; and so on with the best of the others.

    Args:
        boxes: (M, 4) XYXY.
        scores: (M,).
        classes: (M,) int64, from 0.
        iou_thresh: IoU up to which a box keeps its score.
        min_score: boxes that overlap a selected one are removed if their score is below this.
        topk: detections of all classes together, at most; negative is no limit.

    Returns:
        Indices of the selected boxes, and their scores after the reduction, sorted by descending
        score.
    """
    if not len(boxes) or topk == 0:
        return classes[:0], scores[:0]
    # A row for each class, its boxes in their order. Empty places have score -inf.
    order = classes.argsort(stable=True)
    counts = classes.bincount()
    column = torch.arange(len(order), device=order.device)
    column = column - (counts.cumsum(0) - counts)[classes[order]]
    longest = int(counts.max())
    shape = (len(counts), longest)
    left = scores.new_full(shape, -torch.inf)
    left[classes[order], column] = scores[order]
    corners = boxes.new_zeros((*shape, 4))
    corners[classes[order], column] = boxes[order]
    index = order.new_zeros(shape)
    index[classes[order], column] = order
    areas = (corners[..., 2:] - corners[..., :2]).prod(dim=-1)

    # Within a class scores are selected in descending order, so the best ``topk`` of all classes
    # are among the first ``topk`` of each.
    steps = longest if topk < 0 else min(longest, topk)
    selected, selected_scores = [], []
    for _ in range(steps):
        best_score, best = left.max(dim=1)
        selected.append(index.gather(1, best[:, None])[:, 0])
        selected_scores.append(best_score)
        box = corners.gather(1, best[:, None, None].expand(-1, 1, 4))
        overlap = (
            (
                (torch.minimum(box[..., 2:], corners[..., 2:]))
                - torch.maximum(box[..., :2], corners[..., :2])
            )
            .clamp(min=0)
            .prod(dim=-1)
        )
        iou = overlap / (areas.gather(1, best[:, None]) + areas - overlap)
        # A removed box (-inf) stays removed: -inf * 0 would be NaN where two boxes are identical.
        reduced = (iou > iou_thresh) & (left > -torch.inf)
        left = torch.where(reduced, left * (1 - iou), left)
        left = left.masked_fill((iou > 0) & (left < min_score), -torch.inf)
        left = left.scatter(1, best[:, None], -torch.inf)

    every, every_score = torch.cat(selected), torch.cat(selected_scores)
    every_score, rank = every_score.sort(descending=True, stable=True)
    number = int((every_score > -torch.inf).sum())
    number = number if topk < 0 else min(number, topk)
    return every[rank[:number]], every_score[:number]
