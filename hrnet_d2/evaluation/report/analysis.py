"""Everything that is computed of a run, for one task."""

from dataclasses import dataclass

import numpy as np

from .curves import (
    BINS,
    Counts,
    best_threshold,
    calibration,
    confusion,
    count_by_score,
    f1,
)
from .errors import CORRECT, IGNORED, KINDS, MISSED, Errors, find_errors
from .inputs import Detections, Truth
from .matching import Matches, match
from .metrics import Metrics, evaluate

__all__ = ["Analysis", "analyze"]


@dataclass(frozen=True)
class Analysis:
    """A run of a task: K classes, I images, D detections, N objects."""

    task: str
    truth: Truth
    detections: Detections
    matches: Matches
    errors: Errors
    metrics: Metrics
    counts: Counts
    threshold: float
    """The score, in steps of 0.01, with the largest F1 of all detections together."""
    best: dict[str, float | None]
    """F1, precision and recall at ``threshold``."""
    best_by_class: list[dict[str, float | None]]
    """For each class, the exact threshold with the largest F1; see ``best_threshold``."""
    calibration: dict
    """See ``calibration``."""
    confusion: list[list[int]]
    """See ``confusion``."""

    @property
    def shown(self) -> np.ndarray:
        """(D,) bool, the detections at the threshold or above it."""
        return self.detections.score >= self.threshold

    @property
    def found(self) -> np.ndarray:
        """(N,) bool, the objects that detections at the threshold or above it found."""
        return _at_threshold(self.matches.detection_of, self.shown)

    @property
    def missed(self) -> np.ndarray:
        """(N,) bool, the objects that no detection at the threshold or above it is about."""
        covered = _at_threshold(self.errors.covered_by, self.shown)
        return ~self.found & ~covered & ~self.truth.crowd

    def error_counts(self, *, everything: bool = False) -> dict[str, int]:
        """Mistakes of each kind, at the threshold or above it; ``everything``: at any score."""
        kind = self.errors.kind[np.ones_like(self.shown) if everything else self.shown]
        counts = {name: int((kind == i).sum()) for i, name in enumerate(KINDS)}
        missed = self.errors.missed if everything else self.missed
        return counts | {KINDS[MISSED]: int(missed.sum())}

    def by_image(self) -> dict[str, np.ndarray]:
        """(I,) counts of each image at the threshold: "true", "false" and "lost" (not found)."""
        images = len(self.truth.image_ids)
        right = self.errors.kind == CORRECT
        wrong = ~right & (self.errors.kind != IGNORED)
        lost = ~self.found & ~self.truth.crowd
        return {
            "true": np.bincount(self.detections.image[right & self.shown], minlength=images),
            "false": np.bincount(self.detections.image[wrong & self.shown], minlength=images),
            "lost": np.bincount(self.truth.image[lost], minlength=images),
        }

    def confusion_matrix(self) -> np.ndarray:
        """(K + 1, K + 1) int at the threshold: rows are objects, columns detections; the last of
        both is the background."""
        k = len(self.truth.class_ids)
        matrix = np.zeros((k + 1, k + 1), dtype=np.int64)
        least = round(self.threshold * BINS)
        for row, column, number, count in self.confusion:
            if number >= least:
                matrix[row, column] += count
        matrix[:k, k] = self.truth.objects - matrix[:k, :k].sum(axis=1)
        return matrix


def _at_threshold(by: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(N,) bool from (N,) detections, -1 for none, and (D,) bool."""
    return np.append(shown, False)[by]


def analyze(truth: Truth, detections: Detections, task: str) -> Analysis:
    """Analyze a run.

    Args:
        truth: the objects.
        detections: of the run.
        task: "bbox" or "segm", one of ``detections.tasks``.
    """
    matches = match(truth, detections, task)
    errors = find_errors(truth, detections, matches)
    counts = count_by_score(truth, detections, matches, errors)
    true, false = (
        np.cumsum(array.sum(axis=0)[::-1])[::-1] for array in (counts.true, counts.false)
    )
    total = int(truth.objects.sum())
    values = f1(true, false, total)
    step = int(np.argmax(values)) if values.max() > 0 else BINS // 2
    counted = errors.kind != IGNORED
    best_by_class = []
    order = np.argsort(detections.cls, kind="stable")
    bounds = np.searchsorted(detections.cls[order], np.arange(len(truth.class_ids) + 1))
    for k, objects in enumerate(truth.objects.tolist()):
        chosen = order[bounds[k] : bounds[k + 1]]
        chosen = chosen[counted[chosen]]
        right = errors.kind[chosen] == CORRECT
        best_by_class.append(best_threshold(detections.score[chosen], right, objects))
    detected = true[step] + false[step]
    return Analysis(
        task=task,
        truth=truth,
        detections=detections,
        matches=matches,
        errors=errors,
        metrics=evaluate(truth, detections, task),
        counts=counts,
        threshold=step / BINS,
        best={
            "f1": float(values[step]),
            "precision": float(true[step] / detected) if detected else None,
            "recall": float(true[step] / total) if total else None,
        },
        best_by_class=best_by_class,
        calibration=calibration(
            np.clip(detections.score[counted], 0, 1), errors.kind[counted] == CORRECT
        ),
        confusion=confusion(truth, detections, matches),
    )
