"""A resource of a fixed amount that requests take parts of."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator

__all__ = ["Budget"]


class Budget:
    """For the event loop's thread alone.

    Attributes:
        free: the amount that nobody holds.
    """

    def __init__(self, total: int):
        """
        Args:
            total: the amount.
        """
        self.total = self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """The amount that is held."""
        return self.total - self.free

    @contextlib.contextmanager
    def at_once(self, amount: int) -> Iterator[bool]:
        """Hold an amount, or yield False if there is not so much."""
        granted = amount <= self.free
        self.free -= amount if granted else 0
        try:
            yield granted
        finally:
            self._give_back(amount if granted else 0)

    @contextlib.asynccontextmanager
    async def in_turn(self, amount: int) -> AsyncIterator[None]:
        """Hold an amount, at most the total, as soon as those who came before have theirs."""
        amount = min(amount, self.total)
        if self._waiting or amount > self.free:
            granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((amount, granted))
            try:
                await granted
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():
                    self._give_back(amount)
                raise
        else:
            self.free -= amount
        try:
            yield
        finally:
            self._give_back(amount)

    def _give_back(self, amount: int) -> None:
        self.free += amount
        while self._waiting:
            first, granted = self._waiting[0]
            if granted.done():  # cancelled
                self._waiting.popleft()
            elif first <= self.free:
                self._waiting.popleft()
                self.free -= first
                granted.set_result(None)
            else:
                return
