"""What was found in an image: arrays, and masks that are small in memory."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import Instances

from hrnet_d2.evaluation.rle import encode_masks

__all__ = ["Prediction", "from_instances"]


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass
class Prediction:
    """The detections of an image or of a frame of a video; N detections, by descending score."""

    source: str = ""
    """Path or URL of the file; of a member of an archive "ARCHIVE/MEMBER"."""
    name: str = ""
    """Relative path that the files written for it bear, unique in the run."""
    stem: str = ""
    """The same without a suffix, unique too."""
    number: int = 0
    """Position among all inputs, from 0."""
    frame: int | None = None
    """Of a video or camera, from 0."""
    width: int = 0
    height: int = 0
    boxes: np.ndarray = field(default_factory=_no_boxes)
    """(N, 4) float32, x1, y1, x2, y2 in pixels of the image."""
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """(N,) float32."""
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) int64, from 0."""
    masks: list[dict[str, Any]] | None = None
    """N of COCO's compressed run-length encodings of the size of the image; None without masks."""
    tracks: np.ndarray | None = None
    """(N,) int64, the same number for the same object in all frames; None without tracking."""
    error: str = ""
    """Why there are no detections, if the image could not be read."""
    path: str | None = None
    """Of the local file that is the image, if it is one."""
    data: bytes | None = None
    """The encoded image, kept for writers that need it."""

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, chosen: np.ndarray) -> "Prediction":
        """The same image with some of its detections.

        Args:
            chosen: (N,) bool, or indices.
        """
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        masks = self.masks if self.masks is None else [self.masks[i] for i in indices]
        tracks = self.tracks if self.tracks is None else self.tracks[indices]
        values = {**self.__dict__, "masks": masks, "tracks": tracks}
        for name in ("boxes", "scores", "classes"):
            values[name] = values[name][indices]
        return Prediction(**values)

    def mask(self, index: int) -> np.ndarray:
        """The mask of a detection: (height, width) uint8, 1 inside.

        Raises:
            ValueError: if the model predicts no masks.
        """
        if self.masks is None:
            raise ValueError("These detections have no masks: the model predicts boxes alone")
        mask: np.ndarray = mask_util.decode(self.masks[index])
        return mask


def from_instances(instances: Instances, threshold: float = 0.0) -> Prediction:
    """From the "instances" of a model's output, on any device.

    Args:
        instances: with ``pred_boxes``, ``scores``, ``pred_classes`` and perhaps ``pred_masks``.
        threshold: the least score to keep.

    Raises:
        ValueError: if a box or a score is not a finite number.
    """
    instances = instances[instances.scores >= threshold].to("cpu")
    height, width = instances.image_size
    found = Prediction(
        width=width,
        height=height,
        boxes=instances.pred_boxes.tensor.numpy().astype(np.float32, copy=False),
        scores=instances.scores.numpy().astype(np.float32, copy=False),
        classes=instances.pred_classes.numpy().astype(np.int64, copy=False),
        masks=encode_masks(instances.pred_masks) if instances.has("pred_masks") else None,
    )
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise ValueError(
            "The model predicts boxes or scores that are NaN or infinite: its weights are "
            "damaged, or its training diverged"
        )
    order = np.argsort(-found.scores, kind="stable")
    return found if np.array_equal(order, np.arange(len(order))) else found.select(order)
