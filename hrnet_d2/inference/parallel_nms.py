"""Non-maximum suppression in a fixed number of parallel steps, for CUDA graphs.

The usual algorithm goes through the boxes one by one, and the size of what it returns is known only
afterwards.  Here all boxes are decided at once, again and again: a box stays if none of the better
boxes that stay overlaps it too much.  After as many rounds as the longest chain of boxes, each of
which suppresses the next, nothing changes any more, and the result is that of the usual algorithm.
"""

import torch

__all__ = ["ROUNDS", "parallel_nms", "top_detections"]

# The longest chains of untrained detectors, which propose most alike boxes, have 18.
ROUNDS = 24
# Of more candidates, the best are compared.
CANDIDATES = 2048


def parallel_nms(
    boxes: torch.Tensor,
    valid: torch.Tensor,
    iou: float,
    groups: torch.Tensor | None = None,
    rounds: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Args:
        boxes: (N, M, 4) XYXY, by descending score.
        valid: (N, M) bool; others neither stay nor suppress.
        iou: of boxes of a group above which the one of the lower score is removed.
        groups: (N, M); boxes of different groups do not suppress each other. None is one group.
        rounds: to compute; None is ``ROUNDS``.

    Returns:
        (N, M) bool, the boxes that stay; and () bool, whether the rounds were enough.
    """
    x0, y0, x1, y1 = boxes.unbind(dim=2)
    width = (x1[:, :, None].minimum(x1[:, None]) - x0[:, :, None].maximum(x0[:, None])).clamp(min=0)
    height = (y1[:, :, None].minimum(y1[:, None]) - y0[:, :, None].maximum(y0[:, None])).clamp(
        min=0
    )
    common = width.mul_(height)
    area = (x1 - x0) * (y1 - y0)
    suppresses = common / (area[:, :, None] + area[:, None] - common) > iou
    if groups is not None:
        suppresses &= groups[:, :, None] == groups[:, None]
    suppresses = suppresses.triu_(1)  # rows are the better boxes

    # A matrix product counts the better boxes that overlap each: one pass over the matrix.
    matrix = suppresses.to(torch.float16 if boxes.is_cuda else torch.float32)

    def decide(stays: torch.Tensor) -> torch.Tensor:
        return valid & (torch.bmm(stays[:, None].to(matrix.dtype), matrix)[:, 0] == 0)

    stays = valid
    for _ in range(ROUNDS if rounds is None else rounds):
        stays = decide(stays)
    return stays, (decide(stays) == stays).all()


def top_detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor,
    valid: torch.Tensor,
    *,
    iou: float,
    most: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best boxes of each image that non-maximum suppression leaves.

    Args:
        boxes: (N, M, 4) XYXY, or (N, M / K, 4) of which each belongs to K scores in succession.
        scores: (N, M), in any order.
        groups: (N, M); boxes of different groups do not suppress each other.
        valid: (N, M) bool; others neither stay nor suppress.
        iou: of boxes of a group above which the one of the lower score is removed.
        most: boxes of an image.

    Returns:
        Boxes (N, D, 4), scores (N, D) and groups (N, D), by descending score; and how many of them
        count (N,), or -1 for an image that takes the usual algorithm.
    """
    m = min(scores.shape[1], CANDIDATES)
    best, index = scores.masked_fill(~valid, -torch.inf).topk(m, dim=1)
    own = index // (scores.shape[1] // boxes.shape[1])
    boxes = boxes.gather(1, own[..., None].expand(-1, -1, 4))
    groups = groups.gather(1, index)
    number, kept = [], []
    for of_image in zip(boxes, best > -torch.inf, groups, strict=True):  # less memory than at once
        boxes_i, valid_i, groups_i = (x[None] for x in of_image)
        stays, settled = parallel_nms(boxes_i, valid_i, iou, groups_i)
        kept.append(stays)
        number.append(stays.sum().where(settled, -1))
    counts = torch.stack(number)
    # A box is only suppressed by a better one, so the others cannot change enough detections.
    known = (valid.sum(dim=1) <= m) | (counts >= most)
    final, places = best.masked_fill(~torch.cat(kept), -torch.inf).topk(min(most, m), dim=1)
    return (
        boxes.gather(1, places[..., None].expand(-1, -1, 4)),
        final,
        groups.gather(1, places),
        counts.clamp(max=most).where(known, -1),
    )
