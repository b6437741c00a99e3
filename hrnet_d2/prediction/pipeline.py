"""Reading, decoding, the network and writing, all at the same time.

One thread walks through the inputs and reads what can only be read in order; others read and
decode files; streams of the network take batches, in order; their results come out in order.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout  # the built-in one from Python 3.11 on
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hrnet_d2.data.image_header import read_header
from hrnet_d2.data.image_io import MAX_PIXELS, decode_image
from hrnet_d2.inference.openvino_backend import is_connected

from .detector import Detector
from .gate import Gate
from .result import Prediction
from .sources.item import Item, as_dict

__all__ = ["Options", "default_streams", "run_pipeline"]

# Batches that a stream takes at once: among them are more images of one size.
WINDOW = 2
MOST_STREAMS = 8
# What reading or decoding a bad file raises; other errors are faults of the program.
READ_ERRORS = (OSError, EOFError, ValueError, TypeError, MemoryError, RuntimeError)
_END = object()


@dataclass
class Options:
    """How the work is divided."""

    workers: int = 4
    """Threads that read and decode, and as many that draw and write."""
    streams: int | None = None
    """Threads that run the network; None suits the device."""
    backend: str = "opencv"
    """What decodes, as INPUT.BACKEND."""
    max_pixels: int = MAX_PIXELS
    keep_images: bool = False
    """Give the images with their predictions."""


def default_streams(on_cpu: bool) -> int:
    """On a CPU one for each core, up to 8, each with its share of the threads; on a GPU one.

    Several images side by side have no barrier in each layer, where threads wait for the last.
    """
    return min(MOST_STREAMS, torch.get_num_threads()) if on_cpu else 1


def _streams_of(detector: Detector) -> int:
    """OpenVINO has threads of its own, which calls side by side would wait for."""
    model = getattr(getattr(detector, "predictor", None), "model", None)
    if model is not None and is_connected(model):
        return 1
    return default_streams(detector.on_cpu)


def run_pipeline(
    detector: Detector,
    items: Iterable[Item],
    options: Options,
    total: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Item, Prediction, np.ndarray | None]]:
    """Predict on images.

    Args:
        detector: runs the network; called from several threads.
        items: the images, read in a thread of its own.
        options: see there.
        total: the number of images, if it is known.
        stopped: asked now and then; True ends the run.

    Yields:
        Each item with its prediction, in order, and its pixels (H, W, 3) if they are kept. An image
        that cannot be read is a prediction with its error.

    Raises:
        Exception: of the network, and of a source that is no bad file.
    """
    pipeline = _Pipeline(detector, options, total, stopped)
    try:
        yield from pipeline.run(items)
    finally:
        pipeline.close()


class _Pipeline:
    def __init__(
        self,
        detector: Detector,
        options: Options,
        total: int | None,
        stopped: Callable[[], bool],
    ):
        self.detector = detector
        self.stopped = stopped
        self.options = options
        self.streams = options.streams or _streams_of(detector)
        if total:
            self.streams = min(self.streams, total)  # each has more threads
        self.gate = Gate()
        self.loaded: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.decoders = ThreadPoolExecutor(max(1, options.workers), "decode")
        self.most = max(1, -(-total // (8 * self.streams))) if total else 2**30
        self.take_lock = threading.Lock()
        self.first_lock = threading.Lock()  # until the network has run once
        self.first = True
        self.taken = 0  # batches
        self.next = 0  # number of the next image to take
        self.held: Any = None  # the next image, that is not ready yet
        self.ended = False
        self.done = threading.Condition()
        self.results: dict[int, list[Any]] = {}
        self.running = 0
        self.error: BaseException | None = None
        self.closed = False
        self.threads_before = torch.get_num_threads()

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Prediction, np.ndarray | None]]:
        self._start(lambda: self._read(items), "read")
        self.running = self.streams
        for i in range(self.streams):
            self._start(self._predict, f"network-{i}")
        number = 0
        while not self.stopped():
            with self.done:
                while number not in self.results:
                    if self.error is not None:
                        raise self.error
                    if self.running == 0 or self.stopped():
                        return
                    self.done.wait(0.5)  # with a limit, to see in time that the run was stopped
                batch = self.results.pop(number)
            number += 1
            batch.reverse()
            while batch and not self.stopped():
                *result, size = batch.pop()
                yield tuple(result)
                self.gate.leave(size)

    def close(self) -> None:
        self.closed = True
        self.gate.close()
        self.loaded.put(_END)
        self.decoders.shutdown(wait=False, cancel_futures=True)
        with self.done:
            self.done.wait_for(lambda: self.running == 0, timeout=30)
        torch.set_num_threads(self.threads_before)

    def _start(self, work: Callable[[], None], name: str) -> None:
        # A daemon, since a camera or a network may never answer.
        threading.Thread(target=work, name=name, daemon=True).start()

    def _fail(self, error: BaseException) -> None:
        with self.done:
            self.error = self.error or error
            self.done.notify_all()

    # ---- Reading

    def _read(self, items: Iterable[Item]) -> None:
        try:
            for number, item in enumerate(items):
                if not self.gate.enter():
                    return
                self.loaded.put((item, self._load(number, item)))
        except BaseException as error:
            self._fail(error)
        finally:
            self.loaded.put(_END)

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
                return self.decoders.submit(lambda: self._decode(number, item, data))
            else:
                return self.decoders.submit(lambda: self._decode(number, item, read()))
        except READ_ERRORS as error:
            ready.set_exception(error)
        return ready

    def _decode(self, number: int, item: Item, data: bytes) -> np.ndarray:
        options = self.options
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

    # ---- The network

    def _predict(self) -> None:
        try:
            torch.set_num_threads(max(1, self.threads_before // self.streams))
            while not self.closed:
                with self.take_lock:
                    taken = self._take()
                    if not taken:
                        return
                    number, self.taken = self.taken, self.taken + 1
                results = self._run(taken)
                del taken
                with self.done:
                    self.results[number] = results
                    self.done.notify_all()
                del results
        except BaseException as error:
            self._fail(error)
        finally:
            with self.done:
                self.running -= 1
                self.done.notify_all()

    def _take(self) -> list[tuple[Item, Any]]:
        """The next images with their pixels or errors: some batches' worth, at least one."""
        taken: list[tuple[Item, Any]] = []
        share = 0.0
        while share < WINDOW and len(taken) < self.most and not self.ended:
            if not taken:
                self.gate.need(self.next)
            entry = self._next_entry(wait=not taken)
            if entry is None:
                break
            if entry is _END:
                self.ended = True
                break
            item, future = entry
            self.next += 1
            try:
                image = future.result()
            except (*READ_ERRORS, CancelledError) as error:
                taken.append((item, error))
                continue
            taken.append((item, image))
            share += 1 / self.detector.most_at_once(image)
            if item.live and self.loaded.empty():
                break
        return taken

    def _next_entry(self, wait: bool) -> Any:
        """The next image, loaded; None if it waits for room that those taken so far must give."""
        while not self.closed:
            if self.held is None:
                with contextlib.suppress(queue.Empty):
                    self.held = self.loaded.get(timeout=0.05)
            if self.held is not None:
                if self.held is _END or wait or self.held[1].done():
                    entry, self.held = self.held, None
                    return entry
                with contextlib.suppress(TimeoutError, FutureTimeout, *READ_ERRORS):
                    self.held[1].result(timeout=0.05)
            if self.gate.crowded and not wait:
                return None
        return _END

    def _run(self, taken: list[tuple[Item, Any]]) -> list[Any]:
        images = [image for _, image in taken if isinstance(image, np.ndarray)]
        if self.first:
            # Once alone: layers lay out their weights when they first run.
            with self.first_lock:
                predictions = iter(self.detector(images))
                self.first = False
        else:
            predictions = iter(self.detector(images))
        results = []
        for item, image in taken:
            if isinstance(image, np.ndarray):
                prediction = next(predictions)
                kept, size = image if self.options.keep_images else None, image.nbytes
            else:
                prediction, kept, size = Prediction(), None, 0
                item.error = _text(image)
            for name, value in as_dict(item).items():
                setattr(prediction, name, value)
            item.read = None
            results.append((item, prediction, kept, size))
        return results


class _KnownError(ValueError):
    """An error that a source reports in place of an image."""


def _text(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if not isinstance(error, MemoryError) else f"too little memory: {text}"
