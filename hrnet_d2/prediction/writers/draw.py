"""Drawn images, and drawn videos."""

import contextlib
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from hrnet_d2.file_io import atomic_write
from hrnet_d2.prediction.drawing import Drawer
from hrnet_d2.prediction.result import Prediction

from .base import Context, FileWriter

__all__ = ["DrawWriter", "video_name"]


def video_name(frame_name: str) -> str:
    """Of the drawn video, from the name of one of its frames."""
    name = str(PurePosixPath(frame_name).parent)
    return name if name.lower().endswith(".mp4") else f"{name}.mp4"


class DrawWriter(FileWriter):
    """``NAME`` for each image, and ``NAME.mp4`` for each video."""

    uses_image = True

    def __init__(self, context: Context, drawer: Drawer):
        """
        Args:
            context: of the run.
            drawer: draws the detections.
        """
        super().__init__(context)
        self.drawer = drawer
        self._video: _DrawnVideo | None = None

    def target(self, name: str, stem: str) -> Path:
        """The drawn image."""
        return self.context.output / name

    def write(self, target: Path, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`FileWriter`."""
        assert image is not None
        drawn = self.drawer(image, prediction)
        try:
            good, data = cv2.imencode(target.suffix, drawn)
        except cv2.error as error:  # such as of a size that the format does not have
            raise OSError(f"OpenCV cannot write {target}: {error}") from error
        if not good:
            raise OSError(f"OpenCV cannot write {target}")
        with atomic_write(target) as part:
            Path(part).write_bytes(data.tobytes())

    def add_frame(
        self, prediction: Prediction, image: np.ndarray | None, fps: float, last: bool
    ) -> None:
        """Add a frame to the drawn video; frames come in order.

        Args:
            prediction: of the frame.
            image: (H, W, 3) uint8 BGR.
            fps: frames in a second.
            last: the video is complete.
        """
        target = self.context.output / video_name(prediction.name)
        if self._video is not None and self._video.target != target:
            self.end_video()
        if image is not None:
            if self._video is None:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._video = _DrawnVideo(target, fps, image.shape[1::-1])
            self._video.add(self.drawer(image, prediction))
        if last:
            self.end_video()

    def end_video(self) -> None:
        """Complete the video that is being written, if there is one."""
        if self._video is not None:
            video, self._video = self._video, None
            video.close()

    def finish(self) -> None:
        self.end_video()


class _DrawnVideo:
    """An MP4 file that gets its name when it is complete."""

    def __init__(self, target: Path, fps: float, size: tuple[int, ...]):
        self.target = target
        self.size = size
        handle, self._part = tempfile.mkstemp(
            prefix=f".{target.name[:64]}.", suffix=".part.mp4", dir=target.parent
        )
        os.close(handle)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer: Any = cv2.VideoWriter(self._part, code, fps, size)
        if not self._writer.isOpened():
            self._writer.release()
            os.unlink(self._part)
            raise OSError(f"OpenCV cannot write the video {target}")

    def add(self, image: np.ndarray) -> None:
        if image.shape[1::-1] != self.size:  # a stream may change its size
            image = cv2.resize(image, self.size)
        self._writer.write(image)

    def close(self) -> None:
        self._writer.release()
        try:
            with atomic_write(self.target) as part:
                os.replace(self._part, part)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self._part)
