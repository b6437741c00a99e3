"""YOLO's labels: a text file for each image, boxes or polygons."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from hrnet_d2.file_io import atomic_write
from hrnet_d2.prediction.result import Prediction

from .base import FileWriter, plain_text
from .polygons import outlines

__all__ = ["YoloWriter"]


class YoloWriter(FileWriter):
    """``labels/NAME.txt``, and ``data.yaml`` with the names of the classes.

    A line is the class, then the box (center x, y, width, height), or for models with masks the
    polygon of the largest part; all as fractions of the image's size.  Scores have no place in it.
    """

    def target(self, name: str, stem: str) -> Path:
        """The label file."""
        return self.context.output / "labels" / f"{stem}.txt"

    def start(self, sizes: Mapping[str, int] | None) -> None:
        """Write the names of the classes."""
        names = dict(enumerate(map(plain_text, self.context.class_names)))
        with atomic_write(self.context.output / "data.yaml") as part:
            text = yaml.safe_dump({"names": names}, allow_unicode=True, sort_keys=False)
            Path(part).write_text(text, encoding="utf-8")

    def write(self, target: Path, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`FileWriter`."""
        size = np.array([prediction.width, prediction.height], np.float64)
        lines = []
        for i, (box, cls) in enumerate(zip(prediction.boxes, prediction.classes, strict=True)):
            corners = np.clip(box.astype(np.float64).reshape(2, 2) / size, 0, 1)
            values = np.concatenate([corners.mean(0), corners[1] - corners[0]])
            if prediction.masks is not None:
                polygons = outlines(prediction.mask(i))
                if not polygons:
                    continue
                values = np.clip(polygons[0] / size, 0, 1).ravel()
            lines.append(" ".join([str(int(cls)), *(f"{v:.6f}" for v in values)]) + "\n")
        with atomic_write(target) as part:
            Path(part).write_text("".join(lines), encoding="utf-8")
