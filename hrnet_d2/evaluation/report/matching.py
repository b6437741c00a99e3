"""Which detection found which object: COCO's matching at one IoU, and overlaps of any class."""

from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util

from .inputs import Detections, Truth

__all__ = ["BACKGROUND_IOU", "MATCH_IOU", "Matches", "Pairs", "match"]

MATCH_IOU = 0.5  # from which an object is found
BACKGROUND_IOU = 0.1  # below which a detection is on no object at all (TIDE)


@dataclass(frozen=True)
class Pairs:
    """Detections and objects of one image whose IoU is at least ``BACKGROUND_IOU``."""

    detection: np.ndarray
    """(P,) int, ascending."""
    truth: np.ndarray
    """(P,) int, ascending for a detection."""
    iou: np.ndarray
    """(P,) float64; for crowds, the part of the detection that is inside."""


@dataclass(frozen=True)
class Matches:
    """The matching of D detections and N objects at ``MATCH_IOU``.

    It is greedy by descending score, so it holds for every threshold of scores: detections below
    the threshold can be left out afterwards.
    """

    pairs: Pairs
    truth_of: np.ndarray
    """(D,) int, the object of its class that a detection found, -1 if none: COCO's matching."""
    ignored: np.ndarray
    """(D,) bool, detections on a crowd region of their class, which count as nothing."""
    detection_of: np.ndarray
    """(N,) int, the detection that found an object, -1 if it was not found."""
    any_class_of: np.ndarray
    """(D,) int, as ``truth_of`` with classes left out of account: the confusion matrix."""


def match(truth: Truth, detections: Detections, task: str) -> Matches:
    """Match the detections with the objects.

    Args:
        truth: the objects.
        detections: of one run.
        task: "bbox" for IoU of boxes, "segm" for IoU of masks.
    """
    pairs = _overlapping(truth, detections, task)
    truth_of = _match_coco(pairs, detections, truth)
    ignored = (
        (truth_of >= 0) & truth.crowd[truth_of] if len(truth) else np.zeros(len(detections), bool)
    )
    truth_of[ignored] = -1
    detection_of = np.full(len(truth), -1)
    found = np.flatnonzero(truth_of >= 0)
    detection_of[truth_of[found]] = found
    any_class = _match_any_class(pairs, detections, truth)
    return Matches(pairs, truth_of, ignored, detection_of, any_class)


def _overlapping(truth: Truth, detections: Detections, task: str) -> Pairs:
    count = len(truth.image_ids)
    d_ends = np.searchsorted(detections.image, np.arange(count + 1))
    t_ends = np.searchsorted(truth.image, np.arange(count + 1))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    both = np.flatnonzero((np.diff(d_ends) > 0) & (np.diff(t_ends) > 0))
    for i in both.tolist():
        d, t = slice(d_ends[i], d_ends[i + 1]), slice(t_ends[i], t_ends[i + 1])
        crowd = truth.crowd[t].astype(np.uint8)
        if task == "segm":
            assert truth.rle is not None and detections.rle is not None
            iou = mask_util.iou(detections.rle[d], truth.rle[t], crowd)
        else:
            iou = mask_util.iou(detections.box[d], truth.box[t], crowd)
        rows, columns = np.nonzero(iou >= BACKGROUND_IOU)
        found.append((rows + d.start, columns + t.start, iou[rows, columns]))
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    detection, objects, ious = (np.concatenate(part) for part in zip(*found, strict=True))
    return Pairs(detection, objects, ious)


def _match_coco(pairs: Pairs, detections: Detections, truth: Truth) -> np.ndarray:
    """The object or crowd region of each detection, as ``COCOeval.evaluateImg`` assigns them.

    Only detections that overlap an object of their class enough are looked at one by one.
    """
    result = np.full(len(detections), -1)
    close = (pairs.iou >= MATCH_IOU) & (detections.cls[pairs.detection] == truth.cls[pairs.truth])
    d, t, iou = pairs.detection[close], pairs.truth[close], pairs.iou[close]
    crowd = truth.crowd[t]
    # Objects before crowd regions; COCO takes the last of several with the same IoU.
    order = np.lexsort((-t, -iou, crowd, d))
    taken: set[int] = set()
    last = -1
    for di, ti, is_crowd in zip(
        d[order].tolist(), t[order].tolist(), crowd[order].tolist(), strict=True
    ):
        if di != last and (is_crowd or ti not in taken):
            result[di] = ti
            last = di
            taken.add(ti)
    return result


def _match_any_class(pairs: Pairs, detections: Detections, truth: Truth) -> np.ndarray:
    """The object of each detection if classes are left out of account.

    A detection takes an object of its own class first, then the one with the largest IoU.
    """
    result = np.full(len(detections), -1)
    close = (pairs.iou >= MATCH_IOU) & ~truth.crowd[pairs.truth]
    d, t, iou = pairs.detection[close], pairs.truth[close], pairs.iou[close]
    other = detections.cls[d] != truth.cls[t]
    order = np.lexsort((-iou, other, d))
    taken: set[int] = set()
    last = -1
    for di, ti in zip(d[order].tolist(), t[order].tolist(), strict=True):
        if di != last and ti not in taken:
            result[di] = ti
            last = di
            taken.add(ti)
    return result
