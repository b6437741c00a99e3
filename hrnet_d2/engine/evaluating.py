"""What follows from the evaluations during training: the best checkpoint, and an early end."""

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils import comm

from hrnet_d2.file_io import atomic_write

from .run_folder import EVALUATIONS
from .saved_runs import RunCheckpointer

__all__ = ["Evaluation", "StoppedEarly", "best_metric_name"]

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


class Evaluation(hooks.EvalHook):
    """Detectron2's hook, which also saves ``model_best.pth`` if the metric is the highest so far,
    and ends the run if it has not risen for ``TEST.PATIENCE`` evaluations.

    Every value goes to ``evaluations.json`` at once, with the number of iterations that were done.
    A resumed run knows from it what came before, and repeats an evaluation that was interrupted.
    NaN (no detections, no objects) is never the best.
    """

    def __init__(
        self, cfg: CfgNode, evaluate: Callable[[], dict | None], checkpointer: RunCheckpointer
    ):
        """
        Args:
            cfg: the full config.
            evaluate: returns the results in the main process; called in every process.
            checkpointer: saves in the main process.
        """
        super().__init__(cfg.TEST.EVAL_PERIOD, evaluate)
        self.metric = best_metric_name(cfg) if cfg.DATASETS.TEST else ""
        self.patience = cfg.TEST.PATIENCE
        self.checkpointer = checkpointer
        self.evaluations: list[tuple[int, float]] = []

    @property
    def best(self) -> tuple[int, float] | None:
        """Iterations and value of the first highest evaluation."""
        finite = [item for item in self.evaluations if math.isfinite(item[1])]
        return max(finite, key=lambda item: item[1], default=None)

    @property
    def last(self) -> tuple[int, float] | None:
        """Iterations and value of the newest evaluation."""
        return self.evaluations[-1] if self.evaluations else None

    def before_train(self) -> None:
        """Take over the evaluations of the run that is resumed.

        Raises:
            StoppedEarly: in every process, if that run had stopped early.
        """
        done = self.trainer.start_iter
        if not self.metric or not done:
            return
        if comm.is_main_process():
            self.evaluations = _read(self._path(), self.metric, done)
        missing = self.last is None or self.last[0] != done
        if self._is_due(done) and comm.all_gather(missing)[0]:
            self.trainer.storage.iter = done - 1
            self._do_eval()
            self.trainer.storage.iter = done
        self._stop_if_out_of_patience(trained=False)

    def after_step(self) -> None:
        """
        Raises:
            StoppedEarly: in every process, if the metric has not risen for long enough.
        """
        super().after_step()
        if self._is_due(self.trainer.iter + 1):
            self._stop_if_out_of_patience(trained=True)

    def _is_due(self, done: int) -> bool:
        """As in Detectron2's hook, where the last evaluation follows the last iteration."""
        return bool(self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter)

    def _do_eval(self) -> None:
        super()._do_eval()
        if self.metric and comm.is_main_process():
            self._judge()

    def _judge(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self.metric, (None, -1))
        if value is None:
            known = sorted(k for k in self.trainer.storage.latest() if "/AP" in k)
            logger.warning(
                "TEST.BEST_METRIC %s is not among the results, so there is no model_best.pth: %s",
                *(self.metric, ", ".join(known) or "no results"),
            )
            return
        done = min(iteration + 1, self.trainer.max_iter)
        before = self.best
        self.evaluations = [item for item in self.evaluations if item[0] != done]
        self.evaluations.append((done, value))
        if self.best == (done, value):
            self.checkpointer.save_weights(
                "model_best", iteration=done - 1, best_metric={self.metric: value}
            )
            logger.info(
                "%s is %.3f after %d iterations%s: saved as model_best.pth",
                *(self.metric, value, done, f", from {before[1]:.3f}" if before else ""),
            )
        elif before is not None:
            logger.info(
                "%s is %.3f after %d iterations; the best is %.3f after %d",
                *(self.metric, value, done, before[1], before[0]),
            )
        self._write()

    def _stop_if_out_of_patience(self, trained: bool) -> None:
        if not self.patience or not self.metric:
            return
        best = self.best
        since = len([1 for done, _ in self.evaluations if best is None or done > best[0]])
        # Only the main process has results.
        if comm.all_gather(since)[0] < self.patience:
            return
        if comm.is_main_process():
            logger.warning(
                "Stopped early: %s has not risen in %d evaluations (TEST.PATIENCE %d)%s",
                *(self.metric, since, self.patience),
                f"; the best is {best[1]:.3f} after {best[0]} iterations" if best else "",
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


def _read(path: str, metric: str, done: int) -> list[tuple[int, float]]:
    """The evaluations until so many iterations; none if the file is of another metric."""
    if not os.path.isfile(path):
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
    return [item for item in values if item[0] <= done]
