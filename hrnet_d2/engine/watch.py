"""A process of a distributed job that dies, hangs or stops answering ends the job, by name.

Without this, the others wait in a collective operation for up to half an hour and then report
their own timeout.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from detectron2.utils import comm

from . import progress

__all__ = ["RankError", "watch_ranks"]

logger = logging.getLogger(__name__)

TIMEOUT = 45.0  # seconds without an answer
INTERVAL = 5.0
VARIABLE = "HRNET_D2_RANK_TIMEOUT"


class RankError(RuntimeError):
    """A process of the job died or does not answer: which one, where."""


@dataclass
class _Process:
    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"

    def is_dead(self) -> bool:
        """Whether it is known to have ended; of other machines this is not known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        # Ended, but its parent has not noticed; elsewhere than on Linux this is not known.
        try:
            with open(f"/proc/{self.pid}/stat") as file:
                return file.read().rsplit(")", 1)[-1].split()[0] in "ZX"
        except OSError:
            return False


@contextlib.contextmanager
def watch_ranks() -> Iterator[None]:
    """Watch the other processes of the job from a thread, while the body runs.

    A process is given 45 seconds to answer, and to move in a training step or evaluation in which
    others are ahead of it (see :mod:`hrnet_d2.engine.progress`); the environment variable
    ``HRNET_D2_RANK_TIMEOUT`` sets other seconds, and 0 turns this off.  When one does not, this
    process ends with an error in its log that names it.

    Processes that are done wait for the others here: they leave the body together.

    Raises:
        RankError: if the body fails because another process of this machine died.
    """
    timeout = float(os.environ.get(VARIABLE, TIMEOUT))
    if (
        not (dist.is_available() and dist.is_initialized())
        or dist.get_world_size() < 2
        or not timeout
    ):
        yield
        return
    watch = _Watch(timeout)
    watch.start()
    try:
        yield
        # A process that left earlier would be taken for dead by the others, which may still be
        # saving; and its group cannot be destroyed while its thread uses it.
        comm.synchronize()
        watch.finish()
    except RuntimeError as error:
        dead = watch.find_dead(seconds=3)
        if dead is None:
            raise
        raise RankError(f"{dead} has died, so the job cannot go on") from error
    finally:
        watch.abandon()


class _Watch(threading.Thread):
    def __init__(self, timeout: float):
        super().__init__(name="watch_ranks", daemon=True)
        self.timeout = timeout
        self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        own = (dist.get_rank(), socket.gethostname(), os.getpid())
        found: list = [None] * dist.get_world_size()
        dist.all_gather_object(found, own, group=self.group)
        self.others = [_Process(*entry) for entry in found if entry != own]
        self.ended = threading.Event()
        self.abandoned = False

    def run(self) -> None:
        """Meet the other processes every few seconds, until all of them have ended."""
        while True:
            ended = self.ended.wait(INTERVAL)
            if self.abandoned:
                return
            try:
                dist.monitored_barrier(
                    self.group, timeout=timedelta(seconds=self.timeout), wait_all_ranks=True
                )
                found: list = [None] * dist.get_world_size()
                dist.all_gather_object(found, (ended, progress.snapshot()), group=self.group)
            except RuntimeError as error:
                if not self.ended.is_set():
                    self._end_job(str(error))
                return
            if all(others_ended for others_ended, _ in found):
                return
            stuck = progress.stuck_ranks([snapshot for _, snapshot in found], self.timeout)
            if stuck and not self.ended.is_set():
                self._end_stuck_job(stuck)

    def finish(self) -> None:
        """The body is over in every process: meet them a last time, and end the thread."""
        self.ended.set()
        self.join(self.timeout)

    def abandon(self) -> None:
        """Watch no longer, whatever the others do."""
        self.abandoned = True
        self.ended.set()

    def find_dead(self, seconds: float) -> _Process | None:
        """The first process that has died, which may take a moment to show."""
        end = time.monotonic() + seconds
        while True:
            dead = next((other for other in self.others if other.is_dead()), None)
            if dead is not None or time.monotonic() > end:
                return dead
            time.sleep(0.1)

    def _end_stuck_job(self, ranks: list[int]) -> None:
        if dist.get_rank() in ranks:
            logger.critical(
                "This process (rank %d) has not moved for %g seconds while others wait for it: "
                "ending the job. It is at:\n%s",
                *(dist.get_rank(), self.timeout, _main_stack()),
            )
        for other in self.others:
            if other.rank in ranks:
                logger.critical(
                    "%s has not moved for %g seconds while others wait for it: ending the job",
                    *(other, self.timeout),
                )
        logging.shutdown()
        os._exit(1)

    def _end_job(self, reason: str) -> None:
        dead = self.find_dead(seconds=2)
        if dead is not None:
            logger.critical("%s has died: ending the job", dead)
        else:
            named = [other for other in self.others if f"{other.rank}" in _ranks(reason)]
            for other in named:
                logger.critical(
                    "%s has not answered for %g seconds: ending the job", other, self.timeout
                )
                if other.host == socket.gethostname():
                    # A stopped process does not react to its launcher's SIGTERM.
                    with contextlib.suppress(OSError):
                        os.kill(other.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            if not named:
                logger.critical("A process of the job does not answer (%s): ending it", reason)
        logging.shutdown()
        # The main thread waits inside a collective operation, which no exception reaches.
        os._exit(1)


def _main_stack() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame, limit=12))


def _ranks(reason: str) -> set[str]:
    """The ranks that an error of ``monitored_barrier`` names."""
    words = reason.replace(",", " ").replace("[", " ").replace("]", " ").replace(":", " ").split()
    found: set[str] = set()
    for i, word in enumerate(words):
        if word.lower() in ("rank", "ranks"):
            for following in words[i + 1 :]:
                if not following.isdigit():
                    break
                found.add(following)
    return found
