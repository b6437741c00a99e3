"""What a training shows: one line that stays on a terminal, or a line now and then in a file."""

import contextlib
import datetime
import logging
import os
import sys
import time
from typing import Any

import torch
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import EventStorage
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .evaluating import Evaluation
from .schedule import Epochs

__all__ = ["FILE_ONLY", "Progress", "quiet_screen"]

logger = logging.getLogger(__name__)

# As ``extra`` of a log record: it goes to log.txt and not to the screen.
FILE_ONLY = {"file_only": True}
LOGGERS = ("detectron2", "fvcore", "hrnet_d2")
WINDOW = 20  # iterations of a median


# Details of each evaluation, while training: how data are held in memory, and the results again.
REPEATED_NAMES = (
    "detectron2.data.common",
    "detectron2.data.dataset_mapper",
    "detectron2.data.datasets.coco",
    "detectron2.evaluation.testing",
)
REPEATED_STARTS = (
    "COCO summary of",
    "Evaluating predictions with",
    "Evaluation results for custom",
    "Saving results to",
    "Some metrics cannot be",
    "Start inference",
    "Total inference",
)
# Told of the same data each time.
ONCE = "detectron2.data.build"


class _Screen(logging.Filter):
    """Keeps off Detectron2's account of the environment and of every key, our own details, and the
    tracebacks of errors that explain themselves."""

    def __init__(self, training: bool):
        super().__init__()
        self.training = training
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and _explains_itself(record.exc_info[1]):
            return False
        if record.levelno >= logging.WARNING:
            return True
        if record.name == "detectron2" or getattr(record, "file_only", False):
            return False
        repeated = record.name in REPEATED_NAMES or str(record.msg).startswith(REPEATED_STARTS)
        if record.name == ONCE:
            text = record.getMessage()
            repeated = text in self._told
            self._told.add(text)
        return not (self.training and repeated)


def _explains_itself(error: BaseException | None) -> bool:
    return isinstance(error, OSError | SizeMismatchError) or type(error).__module__.startswith(
        f"{__package__.partition('.')[0]}."
    )


def quiet_screen(training: bool = True) -> None:
    """Let details go to ``log.txt`` alone; for handlers that exist by now.

    Args:
        training: also those of each evaluation, of which a training makes many.
    """
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if _is_screen(handler) and not any(isinstance(f, _Screen) for f in handler.filters):
                handler.addFilter(_Screen(training))


def _is_screen(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)


class Progress(HookBase):
    """Iteration, epoch, losses, speed, memory, time to go, last and best AP.

    On a terminal it is one line at the bottom, by tqdm; the log has a line every 20 iterations in
    any case, which a terminal does not show.
    """

    def __init__(self, epochs: Epochs, period: int = 20, evaluation: Evaluation | None = None):
        """
        Args:
            epochs: of the training data.
            period: iterations between two lines of the log.
            evaluation: that knows the last and the best result.
        """
        self.epochs = epochs
        self.period = period
        self.evaluation = evaluation
        self._bar: tqdm | None = None
        self._stack = contextlib.ExitStack()
        self._shown_at = 0.0

    def before_train(self) -> None:
        """Open the line, if there is a terminal."""
        if not sys.stderr.isatty():
            return
        loggers = [logging.getLogger(name) for name in LOGGERS]
        self._stack.enter_context(logging_redirect_tqdm(loggers))
        quiet_screen()
        self._bar = self._stack.enter_context(
            tqdm(
                total=self.trainer.max_iter,
                initial=self.trainer.start_iter,
                # Some terminals do not know their width.
                dynamic_ncols=os.get_terminal_size(sys.stderr.fileno()).columns > 0,
                bar_format="{n_fmt}/{total_fmt} {bar:10} {desc}",
            )
        )

    def after_step(self) -> None:
        """Move the line; write to the log every ``period`` iterations and after the last one."""
        done = self.trainer.iter + 1
        if self._bar is not None:
            now = time.monotonic()
            self._bar.n = done
            if now - self._shown_at > 0.5 or done == self.trainer.max_iter:
                self._shown_at = now
                self._bar.set_description_str(self._describe(losses_of_step=True), refresh=True)
        if done % self.period == 0 or done == self.trainer.max_iter:
            extra = FILE_ONLY if self._bar is not None else None
            where = f"iter {done}/{self.trainer.max_iter}"
            logger.info("%s  %s", where, self._describe(losses_of_step=False), extra=extra)

    def after_train(self) -> None:
        """Close the line."""
        self._stack.close()
        self._bar = None

    def _describe(self, losses_of_step: bool) -> str:
        storage: EventStorage = self.trainer.storage
        done, length = self.trainer.iter + 1, self.trainer.max_iter
        words = []
        if (epoch := self.epochs.of(done)) is not None:
            words.append(f"epoch {epoch:.2f}/{self.epochs.of(length):.4g}")
        losses = self._losses(storage, smooth=not losses_of_step)
        words += losses[:1]
        if self.evaluation is not None and self.evaluation.last is not None:
            found = f"{self.evaluation.metric} {self.evaluation.last[1]:.2f}"
            if self.evaluation.best is not None:
                found += f" (best {self.evaluation.best[1]:.2f})"
            words.append(found)
        seconds = _median(storage, "time")
        if seconds:
            left = seconds * (length - done)
            storage.put_scalar("eta_seconds", left, smoothing_hint=False)
            words.append(f"eta {datetime.timedelta(seconds=int(left))}")
            words.append(f"{self.epochs.batch / seconds:.3g} img/s")
            words.append(f"time {seconds:.3f}")
        if (waiting := _median(storage, "data_time")) is not None:
            words.append(f"data {waiting:.3f}")
        if "lr" in storage.latest():
            words.append(f"lr {storage.latest()['lr'][0]:.4g}")
        words.append(f"mem {_memory():.0f}M")
        return "  ".join([*words, *losses[1:]])

    def _losses(self, storage: EventStorage, smooth: bool) -> list[str]:
        """The sum first, which a narrow terminal still shows."""
        latest = storage.latest()
        names = [name for name in latest if "loss" in name and not name.startswith("val_")]
        words = []
        for name in sorted(names, key=lambda name: (name != "total_loss", name)):
            value = latest[name][0]
            if smooth:
                value = storage.history(name).median(storage.count_samples(name, WINDOW))
            words.append(f"{_short(name)} {value:.4g}")
        return words


def _short(name: str) -> str:
    return {"total_loss": "loss"}.get(name, name.removeprefix("loss_"))


def _median(storage: EventStorage, name: str) -> float | None:
    try:
        history: Any = storage.history(name)
    except KeyError:
        return None
    return float(history.median(WINDOW))


def _memory() -> float:
    """The most memory in MiB: of the GPU if there is one, or else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
