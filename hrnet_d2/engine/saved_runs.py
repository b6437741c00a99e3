"""What a training keeps in its folder: periodic checkpoints, the last and the best one."""

import contextlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import hooks

from hrnet_d2.checkpoint import Checkpointer

from .averaging import WeightAverage
from .diverging import check_weights

__all__ = ["PeriodicCheckpointer", "RunCheckpointer", "link_last"]

logger = logging.getLogger(__name__)

LAST_MODEL = "model_last"
_NUMBERED = re.compile(r"model_\d{7}\.pth")


class RunCheckpointer(Checkpointer):
    """The checkpointer of a training, whose files have the averaged weights if there are any.

    With an average, "model" in every file is the average, so that whatever reads the file
    evaluates, predicts and converts with it; the weights that training continues from are a part
    of the trainer's state.
    """

    average: WeightAverage | None = None

    @property
    def class_names(self) -> list[str]:
        """Of the model, as they are saved; empty if they are not known."""
        return list(self._description.get("class_names", ()))

    def save(self, name: str, **kwargs: Any) -> None:
        """As the base class does, with the averaged weights as the model."""
        with self._averaged():
            super().save(name, **kwargs)

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Save the model (averaged, if there is an average), the config and ``kwargs``, without the
        training state. The file is not what a run resumes from.

        Raises:
            OSError: if it cannot be written; see :meth:`save`.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        with self._averaged():
            data = {"model": self.model.state_dict(), **self._description, **kwargs}
            path = os.path.join(self.save_dir, f"{name}.pth")
            if "://" in self.save_dir:
                with self.path_manager.open(path, "wb") as file:
                    torch.save(data, file)
            else:
                self._write(data, path)

    def _averaged(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.average is None else self.average.in_place()


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's, which also keeps ``model_last.pth``: always the newest, and never older than so
    many minutes.

    Weights that have diverged are an error and are not saved.
    """

    def __init__(self, checkpointer: Any, period: int, *, keep: int = 0, minutes: float = 0.0):
        """
        Args:
            checkpointer: of the main process.
            period: iterations between two numbered checkpoints.
            keep: the most numbered checkpoints that stay, the newest ones; 0 keeps all.
            minutes: the longest time between two checkpoints; 0 sets no limit.
        """
        super().__init__(checkpointer, period)
        self.keep = keep
        self.minutes = minutes
        self._saved_at = time.monotonic()

    def before_train(self) -> None:
        """Minutes count from here."""
        super().before_train()
        self._saved_at = time.monotonic()

    def step(self, iteration: int, **kwargs: Any) -> None:
        """
        Raises:
            DivergedError: if a weight is not finite where a checkpoint is due.
        """
        last = self.max_iter is not None and iteration >= self.max_iter - 1
        numbered = (iteration + 1) % self.period == 0
        late = bool(self.minutes) and time.monotonic() - self._saved_at > 60 * self.minutes
        if not (last or numbered or late):
            return
        check_weights(self.checkpointer.model, f"at iteration {iteration}")
        if last or numbered:
            super().step(iteration, **kwargs)
            name = "model_final" if last else f"model_{iteration:07d}"
            link_last(self.checkpointer.save_dir, name)
            if numbered:
                self._remove_old(iteration)
        else:
            self.checkpointer.save(LAST_MODEL, iteration=iteration, **kwargs)
        self._saved_at = time.monotonic()

    def _remove_old(self, iteration: int) -> None:
        folder = self.checkpointer.save_dir
        if not self.keep or "://" in folder:
            return
        names = sorted(path.name for path in Path(folder).glob("model_*.pth"))
        for name in [name for name in names if _NUMBERED.fullmatch(name)][: -self.keep]:
            if name != f"model_{iteration:07d}.pth":
                Path(folder, name).unlink(missing_ok=True)


def link_last(folder: str, name: str) -> None:
    """Let ``model_last.pth`` be another name of a checkpoint that was just saved.

    Both are one file on disk. On file systems without such links there is no ``model_last.pth``;
    ``last_checkpoint`` names the newest file there as well.
    """
    if "://" in folder:
        return
    path, link = Path(folder, f"{name}.pth"), Path(folder, f".{LAST_MODEL}.part.pth")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
        os.replace(link, path.with_name(f"{LAST_MODEL}.pth"))
    except OSError as error:
        logger.debug("No link %s.pth to %s: %s", LAST_MODEL, path, error)
