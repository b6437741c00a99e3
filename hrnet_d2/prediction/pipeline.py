"""Reading, decoding, the network and writing, all at the same time.

One thread walks through the inputs and reads what can only be read in order; others read and
decode files; streams of the network take batches, in order; their results come out in order.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import torch

from .detector import Detector
from .loading import END, READ_ERRORS, Loader
from .options import Options, streams_of
from .result import Prediction
from .sources.item import Item, as_dict

__all__ = ["run_pipeline"]

# Batches that a stream takes at once: among them are more images of one size.
WINDOW = 2


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
        self.streams = options.streams or streams_of(detector)
        if total:
            self.streams = min(self.streams, total)  # each has more threads
        self.loader = Loader(options, self._fail)
        self.most = max(1, -(-total // (8 * self.streams))) if total else 2**30
        self.take_lock = threading.Lock()
        self.first_lock = threading.Lock()  # until the network has run once
        self.first = True
        self.taken = 0  # batches
        self.next = 0  # number of the next image to take
        self.ended = False
        self.done = threading.Condition()
        self.results: dict[int, list[Any]] = {}
        self.running = 0
        self.error: BaseException | None = None
        self.closed = False
        self.threads_before = torch.get_num_threads()

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Prediction, np.ndarray | None]]:
        self.loader.start(items)
        self.running = self.streams
        for i in range(self.streams):
            # A daemon, since the network may be at work when the run is stopped.
            threading.Thread(target=self._predict, name=f"network-{i}", daemon=True).start()
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
                self.loader.gate.leave(size)

    def close(self) -> None:
        self.closed = True
        self.loader.close()
        with self.done:
            self.done.wait_for(lambda: self.running == 0, timeout=30)
        torch.set_num_threads(self.threads_before)

    def _fail(self, error: BaseException) -> None:
        with self.done:
            self.error = self.error or error
            self.done.notify_all()

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
                self.loader.gate.need(self.next)
            entry = self.loader.next(wait=not taken)
            if entry is None:
                break
            if entry is END:
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
            if item.live and self.loader.is_empty:
                break
        return taken

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


def _text(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if not isinstance(error, MemoryError) else f"too little memory: {text}"
