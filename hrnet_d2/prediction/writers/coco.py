"""COCO's results format, and the list of images that its ids refer to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_d2.data.categories import category_id
from hrnet_d2.prediction.result import Prediction

from .appended import AppendedFile
from .base import Context, Writer, plain_text
from .rows import number

__all__ = ["CocoWriter", "coco_results"]


def coco_results(
    prediction: Prediction, image_id: int, category_ids: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """The detections of an image as COCO's results, ready for JSON.

    Args:
        prediction: the detections.
        image_id: of the image.
        category_ids: by the number of the class; empty: the number + 1.

    Returns:
        A dict for each detection with "image_id", "category_id", "bbox" (x, y, width, height),
        "score" and, if there are masks, "segmentation".
    """
    results = []
    for i, (box, score, cls) in enumerate(
        zip(prediction.boxes, prediction.scores, prediction.classes, strict=True)
    ):
        x1, y1, x2, y2 = (float(v) for v in box)
        result: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_id(int(cls), category_ids),
            "bbox": [number(v) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": number(score, 6),
        }
        if prediction.masks is not None:
            result["segmentation"] = prediction.masks[i]
        results.append(result)
    return results


class CocoWriter(Writer):
    """``predictions.json``, COCO's results, and ``images.json``, the images and classes.

    The latter is a COCO dataset without annotations, as ``pycocotools.coco.COCO`` reads it.  An
    image that could not be read is in it with its "error".
    """

    def __init__(self, context: Context):
        super().__init__(context)
        ids = [context.category(i) for i in range(len(context.class_names))]
        categories = [
            {"id": i, "name": plain_text(n)} for i, n in zip(ids, context.class_names, strict=True)
        ]
        head = json.dumps({"categories": categories, "annotations": []})[:-1] + ', "images": ['
        output, suffix = context.output, context.suffix
        self.results = AppendedFile(output / f"predictions{suffix}.json", b"[", b"\n]\n")
        self.images = AppendedFile(output / f"images{suffix}.json", head.encode(), b"\n]}\n")

    def tables(self) -> list[Path]:
        return [self.results.path, self.images.path]

    def start(self, sizes: Mapping[str, int] | None) -> None:
        for file in (self.results, self.images):
            file.start(None if sizes is None else sizes.get(file.path.name, 0))

    def add(self, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`Writer`."""
        image_id = self.context.image_ids(prediction)
        ids = [
            self.context.category(c) for c in range(int(max(prediction.classes, default=-1)) + 1)
        ]
        _append(self.results, coco_results(prediction, image_id, ids))
        entry: dict[str, Any] = {"id": image_id, "file_name": plain_text(prediction.source)}
        entry |= {"width": prediction.width, "height": prediction.height}
        if prediction.frame is not None:
            entry["frame"] = prediction.frame
        if prediction.error:
            entry["error"] = plain_text(prediction.error)
        _append(self.images, [entry])

    def flush(self) -> dict[str, int]:
        return {file.path.name: file.flush() for file in (self.results, self.images)}

    def finish(self) -> None:
        self.results.close()
        self.images.close()


def _append(file: AppendedFile, entries: list[dict[str, Any]]) -> None:
    """Add entries to a JSON array, a line each."""
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    if lines:
        file.append(f"{'' if file.empty else ','}\n{lines}".encode("ascii"))
