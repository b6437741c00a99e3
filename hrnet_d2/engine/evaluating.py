"""What follows from the evaluations during training: the best checkpoint, and an early end."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from hrnet_d2.file_io import atomic_write

from .run_folder import EVALUATIONS
from .saved_runs import RunCheckpointer

__all__ = ["Best", "StoppedEarly", "best_metric_name"]

logger = logging.getLogger(__name__)


class StoppedEarly(BaseException):
    """Ends the loop of iterations; not an error, which Detectron2's loop would log.

    Attributes:
        trained: whether an iteration was made in this run, after which it stopped.
    """

    def __init__(self, trained: bool):
        super().__init__("stopped early")
        self.trained = trained


def best_metric_name(cfg: CfgNode) -> str:
    """The metric that decides which model is best, as it is named in ``metrics.json``."""
    name: str = cfg.TEST.BEST_METRIC or ("segm/AP" if cfg.MODEL.MASK_ON else "bbox/AP")
    several = len(cfg.DATASETS.TEST) > 1 and not cfg.TEST.BEST_METRIC
    return f"{cfg.DATASETS.TEST[0]}/{name}" if several else name


class Best(HookBase):
    """After each evaluation: saves ``model_best.pth`` if the metric is the highest so far, and ends
    the run if it has not risen for ``TEST.PATIENCE`` evaluations.

    Every value goes to ``evaluations.json`` at once, from which a resumed run knows what came
    before the iteration that it starts from.  NaN (no detections, no objects) is never the best.
    """

    def __init__(self, cfg: CfgNode, checkpointer: RunCheckpointer):
        """
        Args:
            cfg: the full config.
            checkpointer: saves in the main process.
        """
        self.metric = best_metric_name(cfg)
        self.period = cfg.TEST.EVAL_PERIOD
        self.patience = cfg.TEST.PATIENCE
        self.checkpointer = checkpointer
        self.evaluations: list[tuple[int, float]] = []

    @property
    def best(self) -> tuple[int, float] | None:
        """Iteration and value of the first highest evaluation."""
        finite = [item for item in self.evaluations if math.isfinite(item[1])]
        return max(finite, key=lambda item: item[1], default=None)

    @property
    def last(self) -> tuple[int, float] | None:
        """Iteration and value of the newest evaluation."""
        return self.evaluations[-1] if self.evaluations else None

    def before_train(self) -> None:
        """Take over the evaluations of the run that is resumed."""
        if comm.is_main_process():
            self.evaluations = _read(self._path(), self.metric, self.trainer.start_iter)
        self._stop_if_out_of_patience(trained=False)

    def after_step(self) -> None:
        """
        Raises:
            StoppedEarly: in every process, if the metric has not risen for long enough.
        """
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter:
            self._judge()
            self._stop_if_out_of_patience(trained=True)

    def after_train(self) -> None:
        """The last evaluation is made after the last iteration."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._judge()

    def _judge(self) -> None:
        if not comm.is_main_process():
            return
        value, iteration = self.trainer.storage.latest().get(self.metric, (None, -1))
        if value is None:
            known = sorted(k for k in self.trainer.storage.latest() if "/AP" in k)
            logger.warning(
                "TEST.BEST_METRIC %s is not among the results, so there is no model_best.pth: %s",
                *(self.metric, ", ".join(known) or "no results"),
            )
            return
        if any(done == iteration for done, _ in self.evaluations):
            return
        before = self.best
        self.evaluations.append((iteration, value))
        if self.best == (iteration, value):
            info = {"iteration": iteration, "best_metric": {self.metric: value}}
            self.checkpointer.save_weights("model_best", **info)
            logger.info(
                "%s is %.3f after iteration %d%s: saved as model_best.pth",
                *(self.metric, value, iteration, f", from {before[1]:.3f}" if before else ""),
            )
        elif before is not None:
            logger.info(
                "%s is %.3f after iteration %d; the best is %.3f of iteration %d",
                *(self.metric, value, iteration, before[1], before[0]),
            )
        self._write()

    def _stop_if_out_of_patience(self, trained: bool) -> None:
        if not self.patience:
            return
        best = self.best
        since = len([1 for i, _ in self.evaluations if best is None or i > best[0]])
        # Only the main process has results.
        if not comm.all_gather(since)[0] >= self.patience:
            return
        if comm.is_main_process():
            logger.warning(
                "Stopped early: %s has not risen in %d evaluations (TEST.PATIENCE %d)%s",
                *(self.metric, since, self.patience),
                f"; the best, {best[1]:.3f}, is of iteration {best[0]}" if best else "",
            )
        raise StoppedEarly(trained)

    def _path(self) -> str:
        return os.path.join(self.checkpointer.save_dir, EVALUATIONS)

    def _write(self) -> None:
        if "://" in self.checkpointer.save_dir or not self.checkpointer.save_dir:
            return
        values = [[i, value if math.isfinite(value) else None] for i, value in self.evaluations]
        with atomic_write(self._path()) as part:
            text = json.dumps({"metric": self.metric, "evaluations": values})
            Path(part).write_text(text, "utf-8")


def _read(path: str, metric: str, before: int) -> list[tuple[int, float]]:
    """Evaluations of iterations before one; none if the file is of another metric or damaged."""
    if not before or not os.path.isfile(path):
        return []
    try:
        saved: Any = json.loads(Path(path).read_text("utf-8"))
        if saved["metric"] != metric:
            logger.warning("%s is of %s: the best %s starts over", path, saved["metric"], metric)
            return []
        values = [(int(i), math.nan if v is None else float(v)) for i, v in saved["evaluations"]]
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read, so the best model starts over: %s", path, error)
        return []
    return [item for item in values if item[0] < before]
