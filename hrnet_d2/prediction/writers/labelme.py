"""labelme's files, to correct detections by hand."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hrnet_d2.file_io import atomic_write
from hrnet_d2.prediction.result import Prediction

from .base import FileWriter, plain_text
from .polygons import outlines
from .rows import number

__all__ = ["LabelmeWriter"]


class LabelmeWriter(FileWriter):
    """``labelme/NAME.json``: rectangles, or for models with masks polygons.

    Parts of one mask share a "group_id".  The image is named by its path; one that is no local file
    (of an archive, a video or a URL) is in the JSON file.
    """

    uses_image = True

    def target(self, name: str, stem: str) -> Path:
        """The file of an image."""
        return self.context.output / "labelme" / f"{stem}.json"

    def write(self, target: Path, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`FileWriter`."""
        shapes: list[dict[str, Any]] = []
        for i, cls in enumerate(prediction.classes):
            for kind, points in self._points(prediction, i):
                shapes.append(
                    {
                        "label": plain_text(self.context.name(int(cls))),
                        "points": [[number(x), number(y)] for x, y in points],
                        "group_id": i if kind == "polygon" else None,
                        "description": f"score {prediction.scores[i]:.3f}",
                        "shape_type": kind,
                        "flags": {},
                    }
                )
        path, data = _image(target, prediction, image)
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": path,
            "imageData": data,
            "imageHeight": prediction.height,
            "imageWidth": prediction.width,
        }
        with atomic_write(target) as part:
            Path(part).write_text(json.dumps(document, indent=1), encoding="utf-8")

    def _points(self, prediction: Prediction, index: int) -> list[tuple[str, Any]]:
        if prediction.masks is None:
            return [("rectangle", prediction.boxes[index].reshape(2, 2))]
        return [("polygon", polygon) for polygon in outlines(prediction.mask(index))]


def _image(target: Path, prediction: Prediction, image: np.ndarray | None) -> tuple[str, Any]:
    """The path of the image from the file's folder, or its name and its bytes."""
    if prediction.path is not None:
        try:
            path = os.path.relpath(prediction.path, target.parent)
        except ValueError:  # on another drive of Windows
            path = os.path.abspath(prediction.path)
        return plain_text(path.replace(os.sep, "/")), None
    assert image is not None
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    name = os.path.basename(prediction.name)
    return plain_text(name), base64.b64encode(data.tobytes()).decode()
