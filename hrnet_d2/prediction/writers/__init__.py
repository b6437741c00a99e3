"""Output formats, each by a short name."""

import importlib
from collections.abc import Sequence

from hrnet_d2.config_file import ConfigError

from .base import Context, FileWriter, Writer

__all__ = ["FORMATS", "Context", "FileWriter", "Writer", "build_writers", "parse_formats"]

# Name to module and class, and what --help says.
FORMATS: dict[str, tuple[str, str, str]] = {
    "draw": ("draw", "DrawWriter", "pictures and videos with the detections drawn"),
    "coco": ("coco", "CocoWriter", "COCO results (predictions.json) and images.json"),
    "jsonl": ("rows", "JsonLinesWriter", "a JSON object for each image"),
    "csv": ("rows", "CsvWriter", "a row for each detection"),
    "parquet": ("parquet", "ParquetWriter", "a row for each image, with lists (needs pyarrow)"),
    "yolo": ("yolo", "YoloWriter", "labels/NAME.txt and data.yaml"),
    "labelme": ("labelme", "LabelmeWriter", "labelme/NAME.json, to correct by hand"),
    "cvat": ("cvat", "CvatWriter", "annotations.xml for CVAT, to correct by hand"),
}
# For people to look at and correct: only detections that are probably right.
FOR_PEOPLE = ("draw", "yolo", "labelme", "cvat")


def parse_formats(text: str) -> list[str]:
    """Of ``draw,coco`` the two names.

    Raises:
        ConfigError: if one is unknown, or there is none.
    """
    names = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], FORMATS, n=1) if unknown else []
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"--format {text}: {'there is no format ' + unknown[0] if unknown else 'no format'}"
            f"{hint}. The formats are {', '.join(FORMATS)}"
        )
    return names


def build_writers(
    names: Sequence[str], context: Context, colors: Sequence[Sequence[int]] = ()
) -> dict[str, Writer]:
    """The writers of formats, by name.

    Args:
        names: of ``FORMATS``.
        context: of the run.
        colors: RGB of the classes, for drawings.

    Raises:
        ConfigError: if a format needs a package that is not installed.
    """
    writers: dict[str, Writer] = {}
    for name in names:
        module, cls, _ = FORMATS[name]
        kind = getattr(importlib.import_module(f".{module}", __name__), cls)
        if name == "draw":
            from hrnet_d2.prediction.drawing import Drawer

            writers[name] = kind(context, Drawer(context.class_names, colors))
        else:
            writers[name] = kind(context)
    return writers
