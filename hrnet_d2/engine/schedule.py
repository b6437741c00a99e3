"""Epochs to iterations: the length of a run, and how often it saves and evaluates."""

import logging
import math
from dataclasses import dataclass

from detectron2.config import CfgNode

from hrnet_d2.config_file import ConfigError

__all__ = ["Epochs", "resolve_schedule"]

logger = logging.getLogger(__name__)

MOST_EVALUATIONS = 100  # in a run whose periods are about an epoch


@dataclass(frozen=True)
class Epochs:
    """The relation of iterations and epochs.

    Attributes:
        images: that an epoch has; None if it is not known.
        batch: images of an iteration, of all processes.
    """

    images: int | None
    batch: int

    def of(self, iterations: int) -> float | None:
        """Epochs, as a fraction."""
        return None if not self.images else iterations * self.batch / self.images

    def in_iterations(self, epochs: float) -> int | None:
        """Iterations that have so many epochs, rounded up."""
        return (
            None if not self.images else max(1, math.ceil(epochs * self.images / self.batch - 1e-9))
        )

    def describe(self, iterations: int) -> str:
        """Such as "300 iterations (2.5 epochs)"."""
        epochs = self.of(iterations)
        return f"{iterations} iterations" + ("" if epochs is None else f" ({epochs:.3g} epochs)")


def resolve_schedule(cfg: CfgNode, epochs: Epochs) -> CfgNode:
    """A config whose schedule is in iterations.

    ``SOLVER.EPOCHS`` above 0 replaces ``SOLVER.MAX_ITER``: the steps move in proportion, and the
    warm-up is at most a tenth of the run. ``SOLVER.CHECKPOINT_PERIOD`` 0 and ``TEST.EVAL_PERIOD``
    -1 become an epoch, or as many whole epochs as keep it to a hundred times in a run; a tenth of
    the run if that is shorter than an epoch.

    Args:
        cfg: the config; it stays as it is.
        epochs: of the training data.

    Raises:
        ConfigError: if epochs are asked for and the number of images is not known.
    """
    solver = cfg.SOLVER
    if solver.EPOCHS <= 0 and solver.CHECKPOINT_PERIOD > 0 and cfg.TEST.EVAL_PERIOD >= 0:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    solver = cfg.SOLVER
    if solver.EPOCHS > 0:
        length = epochs.in_iterations(solver.EPOCHS)
        if length is None:
            raise ConfigError(
                "SOLVER.EPOCHS needs data whose number of images is known: set SOLVER.EPOCHS 0 and "
                "SOLVER.MAX_ITER"
            )
        scale = length / solver.MAX_ITER
        steps = {max(1, round(step * scale)) for step in solver.STEPS}
        solver.STEPS = tuple(sorted(step for step in steps if step < length))
        solver.WARMUP_ITERS = min(solver.WARMUP_ITERS, length // 10)
        solver.MAX_ITER = length
        logger.info(
            "SOLVER.EPOCHS %g: SOLVER.MAX_ITER %d, STEPS %s, WARMUP_ITERS %d",
            *(solver.EPOCHS, length, solver.STEPS, solver.WARMUP_ITERS),
        )
    period = _epoch_period(solver.MAX_ITER, epochs)
    if solver.CHECKPOINT_PERIOD == 0:
        solver.CHECKPOINT_PERIOD = period
    if cfg.TEST.EVAL_PERIOD < 0:
        cfg.TEST.EVAL_PERIOD = period if cfg.DATASETS.TEST else 0
    cfg.freeze()
    return cfg


def _epoch_period(length: int, epochs: Epochs) -> int:
    epoch = epochs.in_iterations(1)
    if epoch is None or epoch >= length:
        return max(1, length // 10)
    whole = math.ceil(length / (epoch * MOST_EVALUATIONS))
    return epoch * whole
