"""Tables for programs: JSON lines, with an image in each line, and CSV, with a detection."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_d2.prediction.result import Prediction

from .appended import AppendedFile
from .base import Context, Writer, plain_text

__all__ = ["CsvWriter", "JsonLinesWriter", "number"]


def number(value: float, digits: int = 3) -> float:
    """A float32 as short as its meaning: boxes to a thousandth of a pixel, scores to 1e-6."""
    return round(float(value), digits)


class _Table(Writer):
    suffix = ""

    def __init__(self, context: Context):
        super().__init__(context)
        self.path = context.output / f"predictions{context.suffix}{self.suffix}"
        self.file = AppendedFile(self.path, self.head())

    def head(self) -> bytes:
        return b""

    def tables(self) -> list[Path]:
        return [self.path]

    def start(self, sizes: Mapping[str, int] | None) -> None:
        self.file.start(None if sizes is None else sizes.get(self.path.name, 0))

    def flush(self) -> dict[str, int]:
        return {self.path.name: self.file.flush()}

    def finish(self) -> None:
        self.file.close()


class JsonLinesWriter(_Table):
    """``predictions.jsonl``: an object for each image, with its detections or its error."""

    suffix = ".jsonl"

    def add(self, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`Writer`."""
        text = json.dumps(self.row(prediction)) + "\n"
        self.file.append(text.encode("ascii"))

    def row(self, p: Prediction) -> dict[str, Any]:
        """The object of an image."""
        row: dict[str, Any] = {"image": plain_text(p.source), "id": self.context.image_ids(p)}
        if p.frame is not None:
            row["frame"] = p.frame
        if p.error:
            return {**row, "error": plain_text(p.error), "detections": []}
        detections = []
        for i, (box, score, cls) in enumerate(zip(p.boxes, p.scores, p.classes, strict=True)):
            found: dict[str, Any] = {
                "class": int(cls),
                "name": self.context.name(int(cls)),
                "score": number(score, 6),
                "box": [number(v) for v in box],
            }
            if p.masks is not None:
                found["segmentation"] = p.masks[i]
            if p.tracks is not None:
                found["track"] = int(p.tracks[i])
            detections.append(found)
        row |= {"width": p.width, "height": p.height, "error": None, "detections": detections}
        return row


class CsvWriter(_Table):
    """``predictions.csv``: a row for each detection; for an image without one, a row of its own."""

    suffix = ".csv"

    def columns(self) -> list[str]:
        """The names of the columns."""
        names = ["image", "id", "frame", "width", "height", "class", "name", "score"]
        names += ["x1", "y1", "x2", "y2"]
        names += ["track"] if self.context.tracks else []
        names += ["rle"] if self.context.masks else []
        return [*names, "error"]

    def head(self) -> bytes:
        return _csv([self.columns()])

    def add(self, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`Writer`."""
        p = prediction
        frame = "" if p.frame is None else p.frame
        start = [plain_text(p.source), self.context.image_ids(p), frame]
        start += ["", ""] if p.error else [p.width, p.height]
        blank = [""] * (len(self.columns()) - len(start) - 1)
        rows: list[list[Any]] = []
        for i, (box, score, cls) in enumerate(zip(p.boxes, p.scores, p.classes, strict=True)):
            row = [*start, int(cls), self.context.name(int(cls)), number(score, 6)]
            row += [number(v) for v in box]
            if self.context.tracks:
                row.append("" if p.tracks is None else int(p.tracks[i]))
            if self.context.masks:
                row.append("" if p.masks is None else p.masks[i]["counts"])
            rows.append([*row, ""])
        self.file.append(_csv(rows or [[*start, *blank, plain_text(p.error)]]))


def _csv(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return plain_text(text.getvalue()).encode("utf-8")
