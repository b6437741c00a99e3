"""How far a run is: a bar on a terminal, a line now and then elsewhere."""

import datetime
import sys
import time
from typing import Any

from tqdm import tqdm

__all__ = ["Progress"]

SECONDS = 60.0  # between two lines where there is no terminal


class Progress:
    """Images, images per second, time to go and failures, on standard error."""

    def __init__(self, total: int | None, shown: bool = True):
        """
        Args:
            total: the number of images, if it is known.
            shown: say anything at all.
        """
        self.total = total
        self.images = 0
        self.failed = 0
        self.started = time.monotonic()
        self._said = self.started
        self._shown = shown
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(total=total, unit=" images", dynamic_ncols=True, smoothing=0.1)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def add(self, error: str = "") -> None:
        """An image is done."""
        self.images += 1
        self.failed += bool(error)
        if self._bar is not None:
            self._bar.update()
            if error:
                self._bar.set_postfix_str(f"{self.failed} failed", refresh=False)
        elif self._shown and time.monotonic() - self._said > SECONDS:
            self._said = time.monotonic()
            self.say(self.line())

    def line(self) -> str:
        """What the bar would show."""
        rate = self.images / max(self.seconds, 1e-9)
        of = "" if self.total is None else f" of {self.total}"
        words = [f"{self.images}{of} images", f"{rate:.3g} images/s"]
        if self.total is not None and self.images:
            left = max(0, self.total - self.images) / rate
            words.append(f"{datetime.timedelta(seconds=int(left))} to go")
        if self.failed:
            words.append(f"{self.failed} failed")
        return ", ".join(words)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        tqdm.write(text, file=sys.stderr) if self._bar is not None else print(
            text, file=sys.stderr, flush=True
        )

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
