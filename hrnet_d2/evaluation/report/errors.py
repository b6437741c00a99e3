"""What kind of mistake each false detection and each missed object is, and what it costs.

The kinds and their costs are those of TIDE (Bolya et al., *TIDE: A General Toolbox for Identifying
Object Detection Errors*, ECCV 2020, arXiv:2008.08115).
"""

from dataclasses import dataclass

import numpy as np

from .inputs import Detections, Truth
from .matching import BACKGROUND_IOU, MATCH_IOU, Matches

__all__ = ["CORRECT", "IGNORED", "KINDS", "Errors", "average_precision", "find_errors"]

# Numbers of the kinds, as ``Errors.kind`` and the page have them.
KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
CORRECT, IGNORED = -1, -2

RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Errors:
    """The mistakes among D detections and N objects."""

    kind: np.ndarray
    """(D,) int: an index of ``KINDS``, CORRECT or IGNORED (on a crowd region)."""
    nearest: np.ndarray
    """(D,) int: for classification and localization mistakes, the object that was meant, or -1."""
    covered_by: np.ndarray
    """(N,) int: for objects that were not found, the detection with the highest score whose
    classification or localization mistake is about it; else -1."""
    missed: np.ndarray
    """(N,) bool: objects that no detection is about, at any score."""
    cost: dict[str, float]
    """For each kind, by how much AP at IoU 0.5 would rise if its mistakes were corrected."""
    ap50: float
    """AP at IoU 0.5, mean of the classes that have objects; nan without objects."""


def find_errors(truth: Truth, detections: Detections, matches: Matches) -> Errors:
    """Classify the mistakes at IoU 0.5; each detection is of one kind."""
    pairs = matches.pairs
    real = ~truth.crowd[pairs.truth]
    same = detections.cls[pairs.detection] == truth.cls[pairs.truth]
    count = len(detections)
    same_iou, same_truth = _best(pairs.detection, pairs.truth, pairs.iou, real & same, count)
    other_iou, other_truth = _best(pairs.detection, pairs.truth, pairs.iou, real & ~same, count)

    wrong = (matches.truth_of < 0) & ~matches.ignored
    localization = wrong & (same_iou >= BACKGROUND_IOU) & (same_iou < MATCH_IOU)
    classification = wrong & ~localization & (other_iou >= MATCH_IOU)
    duplicate = wrong & ~localization & ~classification & (same_iou >= MATCH_IOU)
    rest = wrong & ~localization & ~classification & ~duplicate
    both = rest & (other_iou > BACKGROUND_IOU)

    kind = np.full(count, CORRECT)
    kind[matches.ignored] = IGNORED
    kind[localization] = LOCALIZATION
    kind[classification] = CLASSIFICATION
    kind[duplicate] = DUPLICATE
    kind[rest] = BACKGROUND
    kind[both] = BOTH
    nearest = np.full(count, -1)
    nearest[localization] = same_truth[localization]
    nearest[classification] = other_truth[classification]

    covered_by = np.full(len(truth), -1)
    about = np.flatnonzero(nearest >= 0)
    about = about[matches.detection_of[nearest[about]] < 0]
    about = about[np.argsort(-detections.score[about], kind="stable")]
    objects, first = np.unique(nearest[about], return_index=True)
    covered_by[objects] = about[first]
    missed = (matches.detection_of < 0) & (covered_by < 0) & ~truth.crowd
    cost, ap50 = _costs(truth, detections, kind, nearest, covered_by, missed)
    return Errors(kind, nearest, covered_by, missed, cost, ap50)


def _best(
    detection: np.ndarray, truth: np.ndarray, iou: np.ndarray, chosen: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest IoU of each detection among the chosen pairs, and its object, or 0 and -1."""
    detection, truth, iou = detection[chosen], truth[chosen], iou[chosen]
    order = np.lexsort((-truth, iou, detection))
    last = order[np.flatnonzero(np.diff(detection[order], append=-1))]
    best_iou, best_truth = np.zeros(count), np.full(count, -1)
    best_iou[detection[last]] = iou[last]
    best_truth[detection[last]] = truth[last]
    return best_iou, best_truth


def average_precision(
    score: np.ndarray, correct: np.ndarray, cls: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    """COCO's interpolated average precision of each class.

    Args:
        score, correct, cls: (D,) of the detections that count.
        positives: (K,) number of objects.

    Returns:
        (K,) float64, nan for classes without objects.
    """
    result = np.full(len(positives), np.nan)
    order = np.lexsort((-score, cls))
    bounds = np.searchsorted(cls[order], np.arange(len(positives) + 1))
    for k, total in enumerate(positives.tolist()):
        if total <= 0:
            continue
        hits = correct[order[bounds[k] : bounds[k + 1]]]
        true = np.cumsum(hits)
        precision = true / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(true / total, RECALLS, side="left")
        result[k] = envelope[at[at < len(hits)]].sum() / len(RECALLS)
    return result


def _costs(
    truth: Truth,
    detections: Detections,
    kind: np.ndarray,
    nearest: np.ndarray,
    covered_by: np.ndarray,
    missed: np.ndarray,
) -> tuple[dict[str, float], float]:
    """What AP at IoU 0.5 gains when the mistakes of one kind are corrected, the others left.

    Of the classification and localization mistakes about an object that was not found, that with
    the highest score becomes a correct detection; the others vanish, as do mistakes of the other
    kinds. Missed objects no longer count.
    """
    positives = truth.objects

    def mean_ap(keep: np.ndarray, correct: np.ndarray, cls: np.ndarray, total: np.ndarray) -> float:
        ap = average_precision(detections.score[keep], correct[keep], cls[keep], total)
        return float(np.nanmean(ap)) if (total > 0).any() else float("nan")

    counted, correct = kind != IGNORED, kind == CORRECT
    base = mean_ap(counted, correct, detections.cls, positives)
    repairable = np.zeros(len(kind), dtype=bool)
    repairable[covered_by[covered_by >= 0]] = True
    cost = {}
    for number, name in enumerate(KINDS):
        of_kind = kind == number
        if number == MISSED:
            lost = np.bincount(truth.cls[missed], minlength=len(positives))
            fixed = mean_ap(counted, correct, detections.cls, positives - lost)
        else:
            repaired = of_kind & repairable
            cls = detections.cls.copy()
            cls[repaired] = truth.cls[nearest[repaired]]
            keep = counted & (~of_kind | repaired)
            fixed = mean_ap(keep, correct | repaired, cls, positives)
        cost[name] = max(fixed - base, 0.0) if np.isfinite(fixed) else 0.0
    return cost, base
