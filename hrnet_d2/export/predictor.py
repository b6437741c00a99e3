"""An exported detector with the face of :class:`~hrnet_d2.Predictor`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from hrnet_d2.engine.images import AnyImage, ImageLoader, named

from . import runtime

__all__ = ["ExportedPredictor", "load"]


class ExportedPredictor:
    """Detections as Detectron2's ``Instances`` from an exported folder.

    Attributes:
        detector: what runs the graph; its ``score_thresh`` may be set.
        metadata: with the classes' names.
    """

    def __init__(self, detector: runtime.Detector):
        """
        Args:
            detector: of the folder.
        """
        self.detector = detector
        names = {"thing_classes": detector.classes} if detector.classes else {}
        self.metadata = Metadata(name="exported", **names)
        self._load = ImageLoader(detector.settings["input"]["resize"])

    def __call__(self, images: Any) -> Any:
        """As ``Predictor.__call__``, for paths, Pillow images, arrays, lists and iterators of them.

        Images of the same padded size that follow each other in a list or an iterator run
        together, as many as ``detector.batch`` says.
        """
        if isinstance(images, list | tuple):
            for i, image in enumerate(images):
                with named(f"image {i} of {len(images)}"):
                    self._load.check(image)
            return list(self._stream(map(self._load, images)))
        if isinstance(images, Iterator):
            return self._stream(self._named(images))
        return next(self._stream([self._load(images)]))

    def _stream(self, images: Iterable[np.ndarray]) -> Iterator[dict[str, Any]]:
        for output in self.detector.stream(images):
            yield _as_instances(output["instances"])

    def _named(self, images: Iterable[AnyImage]) -> Iterator[np.ndarray]:
        """The images' pixels; what cannot be read is named by its position."""
        for i, image in enumerate(images):
            with named(f"image {i}"):
                pixels = self._load(image)
            yield pixels


def load(folder: str | Path, **options: Any) -> ExportedPredictor:
    """The detector of a folder that ``hrnet-d2 export`` made.

    Args:
        folder: the folder.
        options: ``device``, ``threads``, ``dtype``, ``batch`` and ``trusted``, see
            :func:`hrnet_d2.export.runtime.load`.

    Raises:
        FileNotFoundError, ImportError, ValueError: as there.
    """
    return ExportedPredictor(runtime.load(folder, **options))


def _as_instances(found: runtime.Detections) -> dict[str, Instances]:
    instances = Instances(found.image_size)
    instances.pred_boxes = Boxes(torch.from_numpy(found.pred_boxes))
    instances.scores = torch.from_numpy(found.scores)
    instances.pred_classes = torch.from_numpy(found.pred_classes)
    if found.pred_masks is not None:
        instances.pred_masks = torch.from_numpy(found.pred_masks)
    return {"instances": instances}
