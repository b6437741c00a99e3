"""CVAT's XML ("CVAT for images 1.1"), to correct detections by hand."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from hrnet_d2.prediction.result import Prediction
from hrnet_d2.text import printable

from .appended import AppendedFile
from .base import Context, Writer, plain_text
from .polygons import outlines

__all__ = ["CvatWriter"]


class CvatWriter(Writer):
    """``annotations.xml``: boxes, or for models with masks polygons.

    CVAT finds an image by its name: the images of a task must have the paths that ``image`` says.
    """

    def __init__(self, context: Context):
        super().__init__(context)
        labels = "".join(
            f"<label><name>{_text(name)}</name><attributes></attributes></label>"
            for name in context.class_names
        )
        head = (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
            f"<meta><task><labels>{labels}</labels></task></meta>\n"
        )
        path = context.output / f"annotations{context.suffix}.xml"
        self.file = AppendedFile(path, head.encode(), b"</annotations>\n")

    def tables(self) -> list[Path]:
        return [self.file.path]

    def start(self, sizes: Mapping[str, int] | None) -> None:
        self.file.start(None if sizes is None else sizes.get(self.file.path.name, 0))

    def add(self, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`Writer`; an image with an error is left out."""
        p = prediction
        if p.error:
            return
        lines = [
            f'<image id="{p.number}" name={_attribute(p.name)} width="{p.width}" '
            f'height="{p.height}">'
        ]
        for i, cls in enumerate(p.classes):
            start = f'label={_attribute(self.context.name(int(cls)))} source="auto" occluded="0"'
            if p.masks is None:
                values = zip(("xtl", "ytl", "xbr", "ybr"), p.boxes[i], strict=True)
                box = " ".join(f'{key}="{value:.2f}"' for key, value in values)
                lines.append(f'<box {start} {box} z_order="0"></box>')
                continue
            for polygon in outlines(p.mask(i)):
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon)
                group = f'z_order="0" group_id="{i + 1}"'
                lines.append(f'<polygon {start} points="{points}" {group}></polygon>')
        self.file.append("".join(f"{line}\n" for line in [*lines, "</image>"]).encode("utf-8"))

    def flush(self) -> dict[str, int]:
        return {self.file.path.name: self.file.flush()}

    def finish(self) -> None:
        self.file.close()


def _text(text: str) -> str:
    return escape(printable(plain_text(text)))  # XML has no control characters


def _attribute(text: str) -> str:
    return quoteattr(printable(plain_text(text)))
