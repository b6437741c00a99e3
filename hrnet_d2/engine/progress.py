"""How far this process has come, so that one that no longer moves can be told from one that waits.

A process that hangs in Python (a data loader whose workers are stuck, a file system that does not
answer) still answers other threads.  What gives it away is that the others are ahead of it, inside
a collective operation, and nobody moves.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

__all__ = ["EvaluationProgress", "mark", "mark_forward", "snapshot", "stuck_ranks", "working"]

FIRST_STEPS = 4  # workers start, kernels are compiled: these may take long
PATIENCE = 5  # times the limit, for them

_marks = 0
_working = False
_steps = 0
_since = time.monotonic()


def mark() -> None:
    """This process has moved."""
    global _marks, _since
    _marks += 1
    _since = time.monotonic()


@contextlib.contextmanager
def working() -> Iterator[None]:
    """The body runs side by side with the other processes, and should take seconds.

    Outside, they may have to wait long for this process, for example while it computes metrics.
    """
    global _working, _steps
    mark()
    _working = True
    try:
        yield
    finally:
        _working = False
        _steps += 1
        mark()


def mark_forward(model: nn.Module) -> None:
    """Mark the end of each forward pass of ``model``: what follows it waits for other processes."""
    if comm.get_world_size() > 1:
        model.register_forward_hook(_after_forward)


def _after_forward(*_: Any) -> None:
    mark()


class EvaluationProgress(DatasetEvaluator):
    """Marks each evaluated image; it is evaluated before other evaluators of a list, which wait."""

    def reset(self) -> None:
        global _working
        mark()
        _working = True

    def process(self, inputs: Any, outputs: Any) -> None:
        mark()

    def evaluate(self) -> None:
        global _working
        _working = False
        mark()


def snapshot() -> tuple[int, bool, int, float]:
    """Number of marks, whether this process works, its finished steps, seconds since its mark."""
    return _marks, _working, _steps, time.monotonic() - _since


def stuck_ranks(snapshots: list[tuple[int, bool, int, float]], limit: float) -> list[int]:
    """The ranks that work, are behind another one, and have not moved for ``limit`` seconds.

    Args:
        snapshots: one for each rank.
        limit: seconds; five times as many in the first steps.

    Returns:
        Ranks, or none if any rank has moved.
    """
    if min(steps for _, _, steps, _ in snapshots) < FIRST_STEPS:
        limit *= PATIENCE
    if min(age for *_, age in snapshots) < limit:
        return []
    most = max(marks for marks, *_ in snapshots)
    return [rank for rank, (marks, works, *_) in enumerate(snapshots) if works and marks < most]
