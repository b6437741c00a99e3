"""Ctrl-C and SIGTERM end a run between two images, so that every file is whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Stop", "stoppable"]


class Stop:
    """Whether a signal came, and which."""

    signal = 0

    def __call__(self) -> bool:
        return self.signal != 0


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Notice signals inside; a second Ctrl-C raises ``KeyboardInterrupt`` as usual.

    Only the main thread can; in others nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
