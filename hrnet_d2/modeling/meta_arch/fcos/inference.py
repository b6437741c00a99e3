"""From FCOS's predictions to detections, for all levels and images at once.

Shapes: N images, C classes, Hl and Wl rows and columns of level l, P locations of all levels
together, K candidates of an image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances

from hrnet_d2.layers.nms import batched_nms_in_double

__all__ = [
    "TOPK_RULES",
    "Candidates",
    "clip_to_images",
    "detect",
    "detect_among",
    "find_candidates",
]

# Of more candidates for an image than these, the best are compared with each other first.
FIRST_CANDIDATES = 5000


class Candidates(NamedTuple):
    """The candidates of every image, unordered.

    Attributes:
        boxes: (N, K, 4) XYXY in pixels of the network's input, not clipped.
        scores: (N, K) probability x centerness.
        probability: (N, K) of the class; minus infinity where a prediction is not finite.
        classes: (N, K).
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    probability: torch.Tensor
    classes: torch.Tensor


def clip_to_images(boxes: torch.Tensor, image_sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Boxes (N, K, 4), clipped to height and width of their image."""
    limits = boxes.new_tensor([[w, h, w, h] for h, w in image_sizes])[:, None]
    return boxes.clamp(min=0).minimum(limits)


def detect(
    logits: Sequence[torch.Tensor],
    distances: Sequence[torch.Tensor],
    ctrness: Sequence[torch.Tensor],
    points: torch.Tensor,
    image_sizes: Sequence[tuple[int, int]],
    *,
    score_thresh: float,
    topk: int,
    nms_thresh: float,
    max_detections: int,
    topk_by: str = "pairs",
    finish_boxes: Callable[
        [torch.Tensor, Sequence[tuple[int, int]]], torch.Tensor
    ] = clip_to_images,
) -> list[Instances]:
    """The objects of every image, sorted by descending score.

    Follows MMDetection's ``BaseDenseHead.predict_by_feat``: of every level the ``topk`` most
    probable pairs of a location and a class above the threshold; boxes are clipped to the image
    *before* non-maximum suppression; scores are probability x centerness, and are not compared to
    the threshold again. Infinite and NaN predictions are dropped.

    Before October 2021 (2.18) MMDetection took of every level all classes of the ``topk``
    locations with the largest product of centerness and best probability.

    Args:
        logits, distances, ctrness: of each level, as ``FCOSHead`` returns them.
        points: (P, 2) x and y of the locations of all levels.
        image_sizes: height and width of each image, without padding.
        score_thresh: a candidate's class probability must be above it.
        topk: candidates of a level and image, at most.
        nms_thresh: IoU of boxes of a class above which the one of the lower score is removed.
        max_detections: of an image, at most; negative is no limit.
        topk_by: what ``topk`` counts: "pairs" or "locations".
        finish_boxes: from decoded boxes (N, K, 4) and the images' sizes to those that non-maximum
            suppression sees and the result has.

    Returns:
        For each image ``pred_boxes`` (XYXY in pixels of the network's input), ``scores`` and
        ``pred_classes``.
    """
    return detect_among(
        find_candidates(logits, distances, ctrness, points, topk=topk, topk_by=topk_by),
        image_sizes,
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        max_detections=max_detections,
        finish_boxes=finish_boxes,
    )


def find_candidates(
    logits: Sequence[torch.Tensor],
    distances: Sequence[torch.Tensor],
    ctrness: Sequence[torch.Tensor],
    points: torch.Tensor,
    *,
    topk: int,
    topk_by: str = "pairs",
) -> Candidates:
    """The part of :func:`detect` whose sizes are those of the maps alone; arguments as there."""
    rule = TOPK_RULES[topk_by]
    picked = [rule(x, c, topk) for x, c in zip(logits, ctrness, strict=True)]
    starts = [0]
    for x in logits[:-1]:
        starts.append(starts[-1] + x.shape[2] * x.shape[3])
    probability = torch.cat([values for values, _, _ in picked], dim=1).sigmoid()  # (N, K)
    location = torch.cat([p + start for (_, p, _), start in zip(picked, starts, strict=True)], 1)
    classes = torch.cat([c for _, _, c in picked], dim=1)

    sides = torch.cat([x.flatten(2) for x in distances], dim=2)  # (N, 4, P)
    sides = sides.gather(2, location[:, None].expand(-1, 4, -1)).transpose(1, 2)  # (N, K, 4)
    centerness = torch.cat([x.flatten(1) for x in ctrness], dim=1).gather(1, location).float()
    scores = probability * centerness.sigmoid()
    xy = points[location]
    boxes = torch.cat([xy - sides[..., :2], xy + sides[..., 2:]], dim=-1)

    # Checked before clipping, which makes infinite boxes finite. (Infinite logits have probability
    # 0 here.)
    finite = centerness.isfinite() & boxes.isfinite().all(dim=-1)
    return Candidates(boxes, scores, probability.masked_fill(~finite, -torch.inf), classes)


def detect_among(
    candidates: Candidates,
    image_sizes: Sequence[tuple[int, int]],
    *,
    score_thresh: float,
    nms_thresh: float,
    max_detections: int,
    finish_boxes: Callable[
        [torch.Tensor, Sequence[tuple[int, int]]], torch.Tensor
    ] = clip_to_images,
) -> list[Instances]:
    """The rest of :func:`detect`: threshold, clipping, non-maximum suppression."""
    boxes, scores, probability, classes = candidates
    valid = probability > score_thresh
    boxes = finish_boxes(boxes, image_sizes)
    valid &= (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)

    results = []
    kept_slots = _suppress(boxes, scores, classes, valid, nms_thresh, max_detections)
    for i, (slots, size) in enumerate(zip(kept_slots, image_sizes, strict=True)):
        slots = slots[:max_detections] if max_detections >= 0 else slots
        instances = Instances(tuple(size))
        instances.pred_boxes = Boxes(boxes[i, slots])
        instances.scores = scores[i, slots]
        instances.pred_classes = classes[i, slots]
        results.append(instances)
    return results


def _suppress(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    classes: torch.Tensor,
    valid: torch.Tensor,
    nms_thresh: float,
    max_detections: int,
) -> list[torch.Tensor]:
    """Non-maximum suppression of the valid candidates of each class and image.

    Of very many candidates only the best are compared first. If these give enough detections, the
    others cannot change them, since a box is only suppressed by one of a higher score.

    Args:
        boxes, scores, classes, valid: (N, K, 4), (N, K), (N, K), (N, K).
        nms_thresh, max_detections: as for :func:`detect`.

    Returns:
        For each image the slots in 0 ... K - 1 that stay, sorted by descending score; at least the
        first ``max_detections``.
    """
    if scores.shape[1] > FIRST_CANDIDATES and max_detections >= 0:
        best = scores.masked_fill(~valid, -torch.inf).topk(FIRST_CANDIDATES, sorted=False).indices
        first = torch.zeros_like(valid).scatter_(1, best, True) & valid
        kept = _nms(boxes, scores, classes, first, nms_thresh)
        complete = (first.sum(dim=1) == valid.sum(dim=1)).tolist()
        if all(c or len(k) >= max_detections for c, k in zip(complete, kept, strict=True)):
            return kept
    return _nms(boxes, scores, classes, valid, nms_thresh)


def _nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    classes: torch.Tensor,
    valid: torch.Tensor,
    nms_thresh: float,
) -> list[torch.Tensor]:
    """As :func:`_suppress`, of all that is valid."""
    image, slot = valid.nonzero(as_tuple=True)
    # One call for all images: boxes of different groups never overlap.
    group = image * (classes.amax() + 1) + classes[image, slot]
    keep = batched_nms_in_double(boxes[image, slot], scores[image, slot], group, nms_thresh)
    # Sorted by image; within each, the descending order of NMS is kept.
    keep = keep[image[keep].argsort(stable=True)]
    counts = image[keep].bincount(minlength=len(boxes)).tolist()
    return list(slot[keep].split(counts))


def _top_pairs(
    logits: torch.Tensor, ctrness: torch.Tensor, topk: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The most probable pairs of a location and a class, of one level.

    Args:
        logits: (N, C, Hl, Wl).
        ctrness: (N, 1, Hl, Wl), which does not matter here.
        topk: how many pairs, at most.

    Returns:
        Logits (float32), locations in the level and classes of the pairs, (N, k) each, unordered.
        Infinite and NaN pairs have a logit of minus infinity.
    """
    x = logits.flatten(2).nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    # The best k pairs are among the k locations with the best classes: no need to search C times
    # as many pairs.
    locations = x.amax(dim=1).topk(min(topk, x.shape[2]), sorted=False).indices
    x = x.gather(2, locations[:, None].expand(-1, x.shape[1], -1))  # (N, C, k)
    k = x.shape[2]
    values, pairs = x.flatten(1).topk(min(topk, x.shape[1] * k), sorted=False)
    return values.float(), locations.gather(1, pairs % k), pairs // k


def _top_locations(
    logits: torch.Tensor, ctrness: torch.Tensor, topk: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All classes of the locations with the largest centerness x best probability, of one level.

    Args:
        logits: (N, C, Hl, Wl).
        ctrness: (N, 1, Hl, Wl) logits.
        topk: how many locations, at most.

    Returns:
        As :func:`_top_pairs`, with C times as many pairs as locations.
    """
    x = logits.flatten(2).nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    score = x.amax(dim=1).float().sigmoid() * ctrness.flatten(1).float().sigmoid().nan_to_num()
    n, num_classes, count = x.shape
    locations = score.topk(min(topk, count), sorted=False).indices[:, None]
    locations = locations.expand(-1, num_classes, -1)  # (N, C, k)
    classes = torch.arange(num_classes, device=x.device)[:, None].expand_as(locations)
    values = x.gather(2, locations)
    return values.flatten(1).float(), locations.flatten(1), classes.flatten(1)


TOPK_RULES = {"pairs": _top_pairs, "locations": _top_locations}
