"""Frames of video files and of cameras."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from hrnet_d2.data.image_io import MAX_PIXELS

from .item import Item
from .remote import WEB, is_url, open_url

__all__ = ["STREAMS", "Video", "camera_index"]

logger = logging.getLogger(__name__)

STREAMS = ("rtsp", "rtmp", "udp", "rtp", "srt")  # live, opened by OpenCV itself
DEFAULT_FPS = 25.0


def camera_index(text: str) -> int | None:
    """Of ``camera:0`` the 0; None for other texts."""
    scheme, separator, number = text.partition(":")
    return int(number) if scheme == "camera" and separator and number.isdigit() else None


class VideoError(OSError):
    """A video cannot be opened, or has no frame."""


@dataclass(slots=True)
class Video:
    """A video file, by path or URL, a network stream, or a camera (``camera:0``)."""

    source: str
    name: str
    max_frames: int = 0
    """Stop after as many; 0 is never."""
    max_pixels: int = MAX_PIXELS
    whole = True
    single = False

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace, without an end."""
        return camera_index(self.source) is not None or self.source.startswith(
            tuple(f"{scheme}://" for scheme in STREAMS)
        )

    def count(self) -> int | None:
        """What the file's header says, or ``max_frames``; None for what has neither."""
        if self.live or is_url(self.source):
            return self.max_frames or None
        try:
            with _opened(self.source) as capture:
                frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        except OSError:
            return 1  # the error
        if frames <= 0:
            return self.max_frames or None
        return min(frames, self.max_frames or frames)

    def items(self, wanted: Callable[[str], bool]) -> Iterator[Item]:
        """See :class:`item.Unit`. A video that cannot be read is an item with the error."""
        if not wanted(self.source):
            return
        try:
            with _local(self.source) as path, _opened(path, self.source) as capture:
                yield from self._frames(capture)
        except OSError as error:
            yield Item(self.source, self.source, wanted=f"{self.name}/000000.jpg", error=str(error))

    def _frames(self, capture: Any) -> Iterator[Item]:
        width, height = (
            int(capture.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > self.max_pixels:
            raise VideoError(
                f"The video {self.source} has {width} x {height} pixels, more than "
                f"INPUT.MAX_PIXELS {self.max_pixels}"
            )
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = float(fps) if np.isfinite(fps) and 0.1 <= fps <= 1000 else DEFAULT_FPS
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number, image = 0, _next(capture)
        if image is None:
            raise VideoError(f"The video {self.source} has no frame that can be decoded")
        while image is not None:
            stop = bool(self.max_frames) and number + 1 >= self.max_frames
            # Of a camera the next frame is not there yet.
            after = None if stop or self.live else _next(capture)
            yield Item(
                source=self.source,
                unit=self.source,
                wanted=f"{self.name}/{number:06d}.jpg",
                frame=number,
                image=image,
                live=self.live,
                last=stop or (after is None and not self.live),
                fps=fps,
            )
            number += 1
            image = _next(capture) if self.live and not stop else after
        if not self.max_frames and not self.live and number < 0.9 * stated:
            logger.warning(
                "The video %s ends after %d of the %d frames that its header states: it may be "
                "damaged",
                *(self.source, number, stated),
            )


def _next(capture: Any) -> np.ndarray | None:
    good, image = capture.read()
    return image if good else None


@contextlib.contextmanager
def _opened(path: str, source: str = "") -> Iterator[Any]:
    source = source or path
    index = camera_index(path)
    if index is None and not is_url(path):
        if not os.path.exists(path):
            raise VideoError(f"There is no video {source}")
        if os.path.getsize(path) == 0:
            raise VideoError(f"The video {source} is empty")
    if index is not None:
        capture = cv2.VideoCapture(index)
    else:
        # Any backend would take a "%" in a name for a series of images.
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise VideoError(
                f"There is no camera {index}, or another program uses it"
                if index is not None
                else f"The video {source} cannot be opened: it is damaged, or OpenCV does not know "
                "its format"
            )
        yield capture
    finally:
        capture.release()


@contextlib.contextmanager
def _local(source: str) -> Iterator[str]:
    """A path or URL that OpenCV opens: other URLs are copied to a temporary file."""
    scheme = source.partition("://")[0].lower()
    if not is_url(source) or scheme in (*WEB, *STREAMS):
        yield source
        return
    suffix = os.path.splitext(source)[1]
    handle, path = tempfile.mkstemp(prefix="hrnet_d2_video_", suffix=suffix)
    try:
        with os.fdopen(handle, "wb") as target, contextlib.closing(open_url(source)) as file:
            shutil.copyfileobj(file, target, 2**20)
        yield path
    finally:
        os.unlink(path)
