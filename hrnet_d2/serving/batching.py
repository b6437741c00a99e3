"""Requests that come together run through the network together."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from detectron2.structures import Instances

from hrnet_d2.engine import MemoryExhaustedError

from .errors import SERVER_FAILED, RequestError
from .metrics import Metrics
from .model import Model
from .settings import Limits

__all__ = ["Batcher"]

logger = logging.getLogger(__name__)

SICK = 3  # batches in a row that failed for a reason that is not their images'


@dataclass
class _Job:
    image: np.ndarray
    finish: Callable[[Instances], bytes]
    answer: asyncio.Future[bytes]
    came: float


class Batcher:
    """One thread that runs the network, and the jobs that wait for it.

    As soon as the network is free it takes all jobs that wait, up to a batch. So a request alone
    does not wait for others, and under load the batches are full.
    """

    def __init__(self, model: Model, limits: Limits, metrics: Metrics):
        """
        Args:
            model: to run.
            limits: ``batch_size``, ``batch_wait`` and ``image_pixels`` count here.
            metrics: to fill.
        """
        self.model, self.limits, self.metrics = model, limits, metrics
        self._expected = 0
        self._waiting: deque[_Job] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._failed = 0

    @property
    def works(self) -> bool:
        """Whether the last batches did not all fail."""
        return self._failed < SICK

    @property
    def waiting(self) -> int:
        """Number of jobs that have not begun."""
        return len(self._waiting)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """While a request is uploaded and decoded."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    async def detect(self, image: np.ndarray, finish: Callable[[Instances], bytes]) -> bytes:
        """Detect in an image; if this is cancelled before its turn, the image is left out.

        Args:
            image: (H, W, 3) uint8, BGR.
            finish: makes the answer of the detections, in the network's thread.

        Raises:
            RequestError: 422 if the network cannot take the image, 503 if memory ran out, 500 if
                something else failed.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(image, finish, answer, time.perf_counter()))
        self._came.set()
        return await answer

    async def run(self) -> None:
        """Run batches until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            batch = self._take()
            if not batch:
                continue
            start = time.perf_counter()
            for job in batch:
                self.metrics.waiting_seconds.observe(start - job.came)
            answers = await loop.run_in_executor(self._thread, self._work, batch)
            self.metrics.batch_seconds.observe(time.perf_counter() - start)
            self.metrics.batch_images.observe(len(batch))
            for job, answer in zip(batch, answers, strict=True):
                if job.answer.done():  # cancelled: nobody waits for it any longer
                    continue
                if isinstance(answer, bytes):
                    job.answer.set_result(answer)
                else:
                    job.answer.set_exception(answer)

    def close(self) -> None:
        """End the thread after the batch that runs."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _gather(self) -> None:
        """Wait for the first job, and shortly for those that are about to come."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        end = time.perf_counter() + self.limits.batch_wait
        while len(self._waiting) < self.limits.batch_size and self._expected:
            left = end - time.perf_counter()
            if left <= 0:
                return
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except asyncio.TimeoutError:
                return

    def _take(self) -> list[_Job]:
        """The next jobs, whose images fit together."""
        batch: list[_Job] = []
        pixels = 0
        while self._waiting and len(batch) < self.limits.batch_size:
            job = self._waiting[0]
            if job.answer.done():
                self._waiting.popleft()
                continue
            height, width = job.image.shape[:2]
            pixels += height * width
            if batch and pixels > self.limits.image_pixels:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _work(self, batch: list[_Job]) -> list[bytes | Exception]:
        """In the network's thread: the answers, or the errors, of a batch."""
        try:
            found = self.model.detect([job.image for job in batch])
        except Exception as error:
            if len(batch) > 1:  # only one of them need be to blame
                return [self._work([job])[0] for job in batch]
            return [self._explain(error)]
        self._failed = 0
        return [self._finish(job, instances) for job, instances in zip(batch, found, strict=True)]

    def _finish(self, job: _Job, instances: Instances) -> bytes | Exception:
        try:
            answer = job.finish(instances)
        except Exception:
            logger.exception("The detections of an image could not be written")
            return RequestError(500, SERVER_FAILED)
        self.metrics.detections.inc(len(instances))
        return answer

    def _explain(self, error: Exception) -> Exception:
        if isinstance(error, ValueError):
            return RequestError(422, str(error))
        self._failed += 1
        logger.error("The network failed", exc_info=error)
        if isinstance(error, MemoryExhaustedError):
            return RequestError(
                503, "The memory of the server does not suffice for this image: send a smaller one"
            )
        return RequestError(500, SERVER_FAILED)
