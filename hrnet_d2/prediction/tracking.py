"""The same number for the same object in all frames of a video, by the library trackers."""

import importlib
from typing import Any

import numpy as np

from hrnet_d2.config_file import ConfigError

from .convert import to_supervision
from .result import Prediction

__all__ = ["TRACKERS", "VideoTracker"]

TRACKERS = {"bytetrack": "ByteTrackTracker", "sort": "SORTTracker", "ocsort": "OCSORTTracker"}


class VideoTracker:
    """Numbers the detections of frames that come in order; each video begins anew.

    Detections that the tracker does not follow, such as those of a single frame, are left out.
    """

    def __init__(self, kind: str = "bytetrack"):
        """
        Args:
            kind: of ``TRACKERS``.

        Raises:
            ConfigError: if the library is not installed.
        """
        try:
            library: Any = importlib.import_module("trackers")
        except ImportError as error:
            raise ConfigError(
                "--track needs the package trackers, which is not installed: pip install "
                f"'hrnet_d2[track]' ({error})"
            ) from error
        self._kind = getattr(library, TRACKERS[kind])
        self._tracker: Any = None
        self._source = ""

    def __call__(self, prediction: Prediction, fps: float) -> Prediction:
        """
        Args:
            prediction: of a frame.
            fps: frames in a second of its video.

        Returns:
            The detections that belong to a track, with its number, from 0.
        """
        if self._tracker is None or prediction.source != self._source or prediction.frame == 0:
            self._tracker = self._kind(frame_rate=fps or 30.0)
            self._source = prediction.source
        detections = to_supervision(Prediction(**{**prediction.__dict__, "masks": None}))
        # The tracker returns them in another order.
        detections.data["index"] = np.arange(len(prediction))
        tracked = self._tracker.update(detections)
        if tracked.tracker_id is None or not len(tracked):
            found = prediction.select(np.zeros(len(prediction), bool))
            found.tracks = np.zeros(0, np.int64)
            return found
        followed = tracked.tracker_id >= 0
        indices = np.asarray(tracked.data["index"])[followed].astype(int)
        numbers = np.asarray(tracked.tracker_id)[followed].astype(np.int64)
        order = np.argsort(indices)
        found = prediction.select(indices[order])
        found.tracks = numbers[order]
        return found
