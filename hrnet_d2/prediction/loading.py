"""Images for the network: read in order, decoded side by side, in a bounded memory."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout  # the built-in one from Python 3.11 on
from typing import Any

import numpy as np

from hrnet_d2.data.image_header import read_header
from hrnet_d2.data.image_io import decode_image

from .gate import Gate
from .options import Options
from .sources.item import Item

__all__ = ["END", "READ_ERRORS", "Loader"]

# What reading or decoding a bad file raises; other errors are faults of the program.
READ_ERRORS = (OSError, EOFError, ValueError, TypeError, MemoryError, RuntimeError)
END: Any = object()
"""What :meth:`Loader.next` gives after the last image."""


class Loader:
    """Walks through the inputs in a thread of its own; others read and decode files.

    Attributes:
        gate: bounds the pixels on their way. Who is done with an image says so there.
    """

    def __init__(self, options: Options, fail: Callable[[BaseException], None]):
        """
        Args:
            options: how many threads, and how to decode.
            fail: told of an error that is no bad file.
        """
        self.gate = Gate()
        self._options = options
        self._fail = fail
        self._loaded: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._decoders = ThreadPoolExecutor(max(1, options.workers), "decode")
        self._held: Any = None  # the next image, that is not ready yet
        self._closed = False

    def start(self, items: Iterable[Item]) -> None:
        """Begin to read. The thread is a daemon, since a camera or a network may never answer."""
        threading.Thread(target=self._read, args=(items,), name="read", daemon=True).start()

    def close(self) -> None:
        """End the threads; what was not taken is dropped."""
        self._closed = True
        self.gate.close()
        self._loaded.put(END)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been read that was not taken."""
        return self._loaded.empty()

    def next(self, wait: bool) -> Any:
        """The next image, as an item and the future of its pixels or error; ``END`` after the last.

        Args:
            wait: for an image that is not ready. Otherwise None if it waits for room that those
                taken so far must give.
        """
        while not self._closed:
            if self._held is None:
                with contextlib.suppress(queue.Empty):
                    self._held = self._loaded.get(timeout=0.05)
            if self._held is not None:
                if self._held is END or wait or self._held[1].done():
                    entry, self._held = self._held, None
                    return entry
                with contextlib.suppress(TimeoutError, FutureTimeout, *READ_ERRORS):
                    self._held[1].result(timeout=0.05)
            if self.gate.crowded and not wait:
                return None
        return END

    def _read(self, items: Iterable[Item]) -> None:
        try:
            for number, item in enumerate(items):
                if not self.gate.enter():
                    return
                self._loaded.put((item, self._load(number, item)))
        except BaseException as error:
            self._fail(error)
        finally:
            self._loaded.put(END)

    def _load(self, number: int, item: Item) -> "Future[np.ndarray]":
        """The image, now or soon."""
        ready: Future[np.ndarray] = Future()
        read = item.read
        try:
            if item.error:
                raise _KnownError(item.error)
            if item.image is not None:
                image, item.image = item.image, None
                self.gate.take_room(number, image.nbytes)
                ready.set_result(image)
            elif read is None:
                raise ValueError(f"{item.source} was not to be read")
            elif item.serial:
                data = read()
                return self._decoders.submit(lambda: self._decode(number, item, data))
            else:
                return self._decoders.submit(lambda: self._decode(number, item, read()))
        except READ_ERRORS as error:
            ready.set_exception(error)
        return ready

    def _decode(self, number: int, item: Item, data: bytes) -> np.ndarray:
        options = self._options
        header = read_header(data)
        size = 3 * header.width * header.height
        if size > 3 * options.max_pixels:
            size = 0  # refused below
        self.gate.take_room(number, size)
        try:
            image = decode_image(
                data, item.source, "BGR", options.backend, max_pixels=options.max_pixels
            )
        except BaseException:
            self.gate.give_back(size)
            raise
        self.gate.give_back(size - image.nbytes)  # if the header told something else
        return image


class _KnownError(ValueError):
    """An error that a source reports in place of an image."""
