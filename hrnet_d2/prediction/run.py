"""A whole run: inputs to files, as ``hrnet-d2 predict`` makes it."""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_d2.config_file import ConfigError
from hrnet_d2.text import printable

from .claiming import claimed
from .detector import Detector
from .options import Options
from .pipeline import run_pipeline
from .plan import Plan
from .progress import Progress
from .record import Done
from .result import Prediction
from .sources import Item
from .sources.video import Video
from .stopping import stoppable
from .task import Summary, Task, find_units
from .tracking import VideoTracker
from .writers import FOR_PEOPLE, Context, Writer, build_writers
from .writers.draw import DrawWriter
from .writers.parquet import ParquetWriter

__all__ = ["predict"]

COMMIT_SECONDS = 5.0
SHOWN_ERRORS = 20
FOR_PEOPLE_SCORE = 0.5


def predict(detector: Detector, metadata: Any, task: Task, options: Options) -> Summary:
    """Predict on all inputs and write the results as they are made.

    Args:
        detector: runs the network.
        metadata: of the model, with "thing_classes" and perhaps "thing_colors".
        task: see there.
        options: how the work is divided.

    Raises:
        FileNotFoundError: if an input does not exist.
        ValueError: if the model predicts boxes that are not finite.
        ConfigError: if the task cannot be done: an output would replace an input or the results of
            an earlier run, or an earlier run had other settings.
        OSError: if an output cannot be written.
    """
    output = Path(task.output)
    for path in (output, *output.parents):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--output {path} is a file: give a folder, which may be a new one")
    units = find_units(task) if task.units is None else task.units
    for unit in units:
        if isinstance(unit, Video):
            unit.max_pixels = options.max_pixels
    track = VideoTracker(task.track) if task.track else None
    context = Context(
        output,
        task.shard.suffix,
        class_names=list(metadata.get("thing_classes") or ()),
        category_ids=task.category_ids,
        masks=bool(task.settings.get("masks")),
        tracks=track is not None,
    )
    if task.image_ids is not None:
        context.image_ids = task.image_ids
    writers = build_writers(task.formats, context, metadata.get("thing_colors") or ())
    with claimed(output, task, units, list(writers.values())) as record:
        run = _Run(detector, task, options, Plan(units, task.shard, record), writers, track)
        return run()


class _Run:
    def __init__(
        self,
        detector: Detector,
        task: Task,
        options: Options,
        plan: Plan,
        writers: dict[str, Writer],
        track: VideoTracker | None,
    ):
        self.detector = detector
        self.task = task
        self.options = options
        self.plan = plan
        self.record = plan.record
        self.writers = writers
        self.track = track
        people = FOR_PEOPLE_SCORE if task.threshold is None else task.threshold
        tables = people if track is not None else task.threshold or 0.0
        self.thresholds = {n: people if n in FOR_PEOPLE else tables for n in writers}
        detector.threshold = min(self.thresholds.values())
        options.keep_images = any(writer.uses_image for writer in writers.values())
        self.pending: dict[str, Done] = {}
        self.jobs: list[Future[None]] = []
        self.in_video = ""
        self.live = False  # the last image was of a camera
        self.committed_at = time.monotonic()

    def __call__(self) -> Summary:
        done = self.record.done
        total = self.plan.total()
        sizes = self.record.sizes if done else None
        for writer in self.writers.values():
            writer.start(sizes)
        progress = Progress(total, self.task.progress)
        before = self.detector.seconds
        workers = max(1, self.options.workers)
        with stoppable() as stop, ThreadPoolExecutor(workers, "write") as pool:
            try:
                for item, prediction, image in run_pipeline(
                    self.detector, self.plan.items(), self.options, total, stop
                ):
                    self._add(item, prediction, image, pool)
                    self._count(progress, item)
                self._end(stop())
            finally:
                progress.close()
                for writer in self.writers.values():
                    writer.finish()
        return Summary(
            images=progress.images,
            failed=progress.failed,
            skipped=sum(d.images for d in done.values()),
            skipped_failed=sum(d.failed for d in done.values()),
            signal=stop.signal,
            seconds=progress.seconds,
            network_seconds=self.detector.seconds - before,
        )

    def _add(
        self, item: Item, prediction: Prediction, image: np.ndarray | None, pool: ThreadPoolExecutor
    ) -> None:
        video = item.frame is not None
        self.live = item.live
        if (video or self.in_video) and item.unit != self.in_video:
            # A video is recorded as a whole, so what was before it is recorded first.
            self.in_video = ""
            self._commit()
            self.in_video = item.unit if video else ""
        if self.track is not None and video:
            prediction = self.track(prediction, item.fps)
        for name, writer in self.writers.items():
            shown = prediction
            if self.thresholds[name] > self.detector.threshold:
                shown = prediction.select(prediction.scores >= self.thresholds[name])
            if video and isinstance(writer, DrawWriter):
                writer.add_frame(shown, image, item.fps, item.last)
            elif writer.parallel:
                self.jobs.append(pool.submit(writer.add, shown, image))
            else:
                writer.add(shown, image)
        self._note(item)
        self._wait(most=2 * self.options.workers)
        full = any(isinstance(w, ParquetWriter) and w.full for w in self.writers.values())
        if not self.in_video and (full or (not self._has_parquet() and self._late())):
            self._commit()

    def _note(self, item: Item) -> None:
        if item.frame is None:
            failed = bool(item.error)
            self.pending[item.source] = Done(item.number, item.name, item.stem, failed)
            return
        known = self.pending.get(item.unit)
        if known is None:
            folder = os.path.dirname(item.name)
            known = self.pending[item.unit] = Done(item.number, folder, folder, images=0)
        known.images += 1
        if item.last:
            self.in_video = ""

    def _count(self, progress: Progress, item: Item) -> None:
        progress.add(item.error)
        if item.error and progress.failed <= SHOWN_ERRORS:
            progress.say(printable(item.error))
        if item.error and progress.failed == SHOWN_ERRORS + 1:
            progress.say("More images failed; their errors are in the tables")

    def _has_parquet(self) -> bool:
        return "parquet" in self.writers

    def _late(self) -> bool:
        return time.monotonic() - self.committed_at > COMMIT_SECONDS

    def _wait(self, most: int) -> None:
        """Wait until no more jobs than these run; raises what one of them raised."""
        while len(self.jobs) > most:
            self.jobs.pop(0).result()

    def _commit(self) -> None:
        """Everything so far is on the disk, then in the record."""
        self._wait(most=0)
        sizes: dict[str, int] = {}
        for writer in self.writers.values():
            sizes |= writer.flush()
        if self.pending:
            self.record.add(self.pending, sizes)
            self.pending = {}
        self.committed_at = time.monotonic()

    def _end(self, stopped: bool) -> None:
        """Record what is left, unless it is of a video that was stopped in the middle."""
        if self.in_video and (self.live or not stopped):
            self.in_video = ""
        if self.in_video:
            self._wait(most=0)
        else:
            self._commit()
