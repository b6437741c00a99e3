"""One detection for each object, from those of overlapping views of an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .result import Prediction

__all__ = ["MERGES", "merge_views"]

MERGES = ("nms", "nmm")
THRESHOLD = 0.5


def merge_views(prediction: Prediction, cut: np.ndarray, merge: str = "nms") -> Prediction:
    """Remove, or merge, detections of the same class that are of the same object.

    Two detections are of one object if their IoU is above 0.5.  One that ends at an inner border of
    its view shows perhaps a part of an object only: it yields to any other, whatever their scores,
    if half of the smaller of the two lies in the larger.

    Args:
        prediction: the detections of all views, in the pixels of the image; N of them.
        cut: (N,) bool, whether a detection ends at an inner border of its view, or yields for
            another reason.
        merge: "nms" keeps the best of each object; "nmm" gives it the box around all of them, and
            the union of their masks.

    Returns:
        The same with fewer detections, by descending score.
    """
    kept: list[int] = []
    groups: list[list[int]] = []
    for cls in np.unique(prediction.classes):
        indices = np.flatnonzero(prediction.classes == cls)
        order = indices[np.lexsort((-prediction.scores[indices], cut[indices]))]
        for group in _groups(prediction.boxes[order].astype(np.float64), cut[order]):
            kept.append(int(order[group[0]]))
            groups.append([int(order[i]) for i in group])
    found = prediction.select(np.array(kept, dtype=np.int64))
    if merge == "nmm":
        for i, group in enumerate(groups):
            if len(group) > 1:
                found.boxes[i, :2] = prediction.boxes[group, :2].min(axis=0)
                found.boxes[i, 2:] = prediction.boxes[group, 2:].max(axis=0)
                if prediction.masks is not None and found.masks is not None:
                    found.masks[i] = _union([prediction.masks[j] for j in group])
    return found.select(np.argsort(-found.scores, kind="stable"))


def _groups(boxes: np.ndarray, cut: np.ndarray) -> list[list[int]]:
    """Each box that is kept, with those that yield to it; boxes are in order of rank.

    Row by row, so that memory grows with the boxes and not with their pairs.
    """
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)
    left = np.arange(len(boxes))
    groups = []
    while len(left):
        best, rest = left[0], left[1:]
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = np.maximum(high - low, 0).prod(axis=1)
        union = areas[best] + areas[rest] - common
        smaller = np.where(cut[rest], np.minimum(areas[best], areas[rest]), union)
        same = common / smaller > THRESHOLD
        groups.append([int(best), *map(int, rest[same])])
        left = rest[~same]
    return groups


def _union(masks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = mask_util.merge(list(masks))
    return {"size": merged["size"], "counts": merged["counts"].decode()}
