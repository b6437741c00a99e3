"""Counts of correct and false detections by score: thresholds, F1 and calibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import CORRECT, IGNORED, KINDS, Errors
from .inputs import Detections, Truth
from .matching import Matches

__all__ = ["BINS", "Counts", "best_threshold", "calibration", "confusion", "count_by_score", "f1"]

BINS = 100  # of scores; bin i has the scores from i / 100
EDGES = np.arange(BINS) / BINS
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Counts:
    """Counts of detections and objects by class and bin of scores, each (K, BINS) int."""

    true: np.ndarray
    false: np.ndarray
    score: np.ndarray
    """(K, BINS) float64, the sum of the scores."""
    kinds: np.ndarray
    """(K, 6, BINS) int, mistakes by kind. Objects that are never missed at a threshold of 0, but
    at one above the score of the detection that found them, are in the bin of that score."""


def bin_of(score: np.ndarray) -> np.ndarray:
    """The bin of each score; scores outside 0 to 1 are in the first or last bin."""
    return np.clip(np.searchsorted(EDGES, score, side="right") - 1, 0, BINS - 1)


def count_by_score(
    truth: Truth, detections: Detections, matches: Matches, errors: Errors
) -> Counts:
    """Count what the page needs to answer every threshold."""
    classes = len(truth.class_ids)
    bins = bin_of(detections.score)

    def count(chosen: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        flat = np.bincount(
            detections.cls[chosen] * BINS + bins[chosen],
            None if weights is None else weights[chosen],
            minlength=classes * BINS,
        )
        return flat.reshape(classes, BINS)

    right, counted = errors.kind == CORRECT, errors.kind != IGNORED
    kinds = np.stack(
        [count(errors.kind == number) for number in range(len(KINDS) - 1)]
        + [_missed_by_score(truth, detections, matches, errors, classes)],
        axis=1,
    )
    false = count(counted & ~right)
    return Counts(count(right), false, count(counted, detections.score), kinds)


def _missed_by_score(
    truth: Truth, detections: Detections, matches: Matches, errors: Errors, classes: int
) -> np.ndarray:
    """(K, BINS): objects that are not missed up to the bin's threshold, and missed above it."""
    by = np.where(matches.detection_of >= 0, matches.detection_of, errors.covered_by)
    seen = (by >= 0) & ~truth.crowd
    flat = truth.cls[seen] * BINS + bin_of(detections.score[by[seen]])
    return np.bincount(flat, minlength=classes * BINS).reshape(classes, BINS)


def f1(true: Any, false: Any, objects: Any) -> np.ndarray:
    """F1 = 2 TP / (TP + FP + objects), 0 where nothing is detected or annotated."""
    total = np.asarray(true) + np.asarray(false) + objects
    return np.divide(2.0 * np.asarray(true), total, out=np.zeros(np.shape(total)), where=total > 0)


def best_threshold(score: np.ndarray, correct: np.ndarray, objects: int) -> dict[str, float | None]:
    """The score whose detections, and those above it, have the largest F1.

    Args:
        score, correct: (D,) of the detections that count.
        objects: number of objects.

    Returns:
        "threshold", "f1", "precision" and "recall"; None without detections or objects. The
        threshold is None if no detection is correct: then every one has an F1 of 0.
    """
    if not len(score) or not objects:
        return dict.fromkeys(("threshold", "f1", "precision", "recall"))
    if not correct.any():
        return {"threshold": None, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    order = np.argsort(-score, kind="stable")
    true = np.cumsum(correct[order])
    number = np.arange(1, len(order) + 1)
    value = f1(true, number - true, objects)
    # A threshold cannot divide detections of the same score.
    value[:-1][score[order][:-1] == score[order][1:]] = -1
    i = int(np.argmax(value))
    return {
        "threshold": float(score[order[i]]),
        "f1": float(value[i]),
        "precision": float(true[i] / number[i]),
        "recall": float(true[i] / objects),
    }


def calibration(score: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """How often detections of a score are correct (IoU 0.5), and the expected calibration error.

    Args:
        score, correct: (D,) of the detections that count.

    Returns:
        "ece", the mean distance of score and precision over the detections (None without any), and
        "bins" of "low", "high", "detections", "score" (mean) and "precision".
    """
    number = np.clip((score * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
    total = np.bincount(number, minlength=CALIBRATION_BINS)
    scores = np.bincount(number, score, CALIBRATION_BINS)
    true = np.bincount(number, correct, CALIBRATION_BINS)
    bins = [
        {
            "low": i / CALIBRATION_BINS,
            "high": (i + 1) / CALIBRATION_BINS,
            "detections": int(total[i]),
            "score": float(scores[i] / total[i]) if total[i] else None,
            "precision": float(true[i] / total[i]) if total[i] else None,
        }
        for i in range(CALIBRATION_BINS)
    ]
    ece = float(np.abs(scores - true).sum() / total.sum()) if total.sum() else None
    return {"ece": ece, "bins": bins}


def confusion(truth: Truth, detections: Detections, matches: Matches) -> list[list[int]]:
    """The confusion matrix, for every threshold, as sparse rows.

    Returns:
        Rows [class of the object, class of the detection, bin of its score, count]; the class K is
        the background. Objects that no detection overlaps at any score are those that the rows of
        their class lack.
    """
    k = len(truth.class_ids)
    of = matches.any_class_of
    counted = (of >= 0) | ~matches.ignored
    rows = np.where(of >= 0, truth.cls[of], k)[counted] if len(truth) else np.full(counted.sum(), k)
    flat = (rows * (k + 1) + detections.cls[counted]) * BINS + bin_of(detections.score[counted])
    values, counts = np.unique(flat, return_counts=True)
    pair, bins = np.divmod(values, BINS)
    table = np.stack([*np.divmod(pair, k + 1), bins, counts], axis=1)
    return [[int(v) for v in row] for row in table]
