"""Hooks of the trainer: stop on a signal without losing work, and seed every iteration."""

import itertools
import logging
import os
import random
import signal
import threading
from types import FrameType
from typing import Any

import numpy as np
import torch
from detectron2.engine.train_loop import HookBase

from hrnet_d2.data.resumable import DataStream

from .diverging import DivergedError, check_weights
from .saved_runs import link_last

__all__ = [
    "DivergedError",
    "Interruption",
    "Seeding",
    "check_weights",
    "seed_all",
]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(HookBase):
    """On Ctrl-C (SIGINT) or SIGTERM: finish the iteration, save a checkpoint, say how to resume.

    A second Ctrl-C ends the run at once. Processes other than the main one let the main process
    save, and end with it. Belongs after the hooks that change the model or the learning rate.
    """

    def __init__(self, checkpointer: Any = None):
        """
        Args:
            checkpointer: saves; None in processes that only wait.
        """
        self.checkpointer = checkpointer
        self.received: int | None = None
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        """Take the signals; only the main thread of a process can."""
        self.received = None
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._on_signal) for s in SIGNALS}

    def after_step(self) -> None:
        """
        Raises:
            KeyboardInterrupt, SystemExit: after the checkpoint was saved.
        """
        if self.received is None or self.checkpointer is None:
            return
        iteration = self.trainer.iter
        name = f"model_{iteration:07d}"
        if iteration + 1 < self.trainer.max_iter:  # else the final checkpoint was just saved
            check_weights(self.checkpointer.model, f"at iteration {iteration}")
            self.checkpointer.save(name, iteration=iteration)
            link_last(self.checkpointer.save_dir, name)
        signal_name = signal.Signals(self.received).name
        logger.warning(
            "Stopped by %s after iteration %d: the checkpoint is in %s. The same command with "
            "--resume continues from it",
            signal_name,
            iteration,
            self.checkpointer.save_dir,
        )
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received)

    def after_train(self) -> None:
        """Give the signals back."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # In a forked data loading worker, which ends with its parent.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # from the launcher too, which passes on what it has received
        self.received = number
        if self.checkpointer is not None:
            logger.warning(
                "%s: finishing this iteration and saving a checkpoint. Press Ctrl-C again to stop "
                "at once",
                signal.Signals(number).name,
            )


class Seeding(HookBase):
    """Make the random numbers of an iteration a function of seed, process and iteration.

    A resumed run then draws the same numbers as one that was never interrupted, in every process.
    """

    def __init__(self, stream: DataStream, rank: int):
        """
        Args:
            stream: whose seed is that of the run, also of a resumed one.
            rank: of this process.
        """
        self.stream = stream
        self.rank = rank

    def before_train(self) -> None:
        """Start the loader, which draws a random number when its first batch is asked for."""
        step = self.trainer._trainer
        batches = step._data_loader_iter
        step._data_loader_iter_obj = itertools.chain([next(batches)], batches)

    def before_step(self) -> None:
        """Seed Python, NumPy and torch (all devices)."""
        seed_all(self.stream.seed, self.rank, self.trainer.iter)


def seed_all(*keys: int) -> None:
    """Seed Python, NumPy and torch with a number made of several."""
    words = np.random.SeedSequence([k % 2**64 for k in keys]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
