"""Datasets of other formats as COCO files in the cache."""

import hashlib
import json
import logging
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from warnings import catch_warnings, simplefilter

import numpy as np
from PIL import Image

from hrnet_d2.data.cache import cache_folder, write_once

from .report import Report, some

__all__ = [
    "IMAGE_SUFFIXES",
    "LONGEST_NAME",
    "ImageSizes",
    "LabeledImage",
    "Labels",
    "Problems",
    "Reader",
    "convert",
    "find_files",
    "find_images",
    "polygon_box",
]

logger = logging.getLogger(__name__)

# Part of the key in the cache: increment it whenever the same labels give another file.
VERSION = 3
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
ORIENTATION = 0x0112  # Exif tag
LONGEST_NAME = 100  # characters of a file in a message
DIGITS = 4  # of a pixel's fraction, far below the precision of any of the formats

Split = tuple[Path, Path]
"""A COCO file and the folder that its file names start from."""


@dataclass
class LabeledImage:
    """An image and its objects, as COCO annotations whose "category_id" is an index of a class."""

    file: Path
    width: int
    height: int
    objects: list[dict[str, Any]] = field(default_factory=list)

    def add(self, category: int, box: Sequence[float], polygons: list[list[float]]) -> None:
        """Add an object: index of its class, box (x, y, width, height) and polygons, in pixels."""
        x, y, w, h = (round(float(v), DIGITS) for v in box)
        annotation = {
            "category_id": category,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
        }
        if polygons:
            annotation["segmentation"] = [[round(float(v), DIGITS) for v in p] for p in polygons]
            annotation["area"] = round(sum(map(_polygon_area, polygons)), DIGITS)
        self.objects.append(annotation)


@dataclass
class Labels:
    """The content of a dataset: names of the classes, and images by the name of their split."""

    classes: list[str]
    splits: dict[str, list[LabeledImage]]


class Reader(Protocol):
    """A dataset of one format. Its constructor looks at no more than its description."""

    format: str
    """What users call it."""
    path: Path
    """What the user gave."""
    roots: list[Path]
    """Files and folders with all that is read."""
    lists_classes: bool
    """Whether the dataset has a list of its classes; otherwise they are those of its objects."""

    def read(self, report: Report, classes: Sequence[str] | None) -> Labels:
        """Read everything; ``report`` takes the problems. ``classes`` are the classes of a dataset
        that has no list of them."""
        ...


class Problems:
    """Problems of a kind and where they are, which become one error of a report each."""

    def __init__(self, root: Path) -> None:
        """
        Args:
            root: the dataset's folder, which is left out of the names of its files.
        """
        self.root = root
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        self.found.setdefault(kind, []).append(where)

    def report(self, errors: list[str]) -> None:
        for kind, places in self.found.items():
            errors.append(f"{len(places)} {kind}: {self.listed(places)}")

    def listed(self, files: Iterable[str | Path]) -> str:
        """The first of many files, for a message."""
        names = (str(file).removeprefix(f"{self.root}{os.sep}") for file in files)
        return some(names, LONGEST_NAME)


class ImageSizes:
    """Width and height of image files, upright, from their headers."""

    def __init__(self, problems: Problems):
        self.problems = problems

    def __call__(self, file: Path) -> tuple[int, int] | None:
        """None for a file that is missing or no image; it becomes a problem."""
        try:
            with catch_warnings():
                simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    width, height = image.size
                    jpeg = image.format in ("JPEG", "MPO")
                    turned = jpeg and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        except FileNotFoundError:
            self.problems.add("images are missing", str(file))
        except Exception as error:  # Pillow raises many kinds for damaged headers
            self.problems.add("images cannot be read", f"{file} ({type(error).__name__})")
        else:
            return (height, width) if turned else (width, height)
        return None


def find_images(folder: Path) -> list[Path]:
    """All image files in a folder and its subfolders, sorted by their paths; no hidden ones."""
    return find_files(folder, IMAGE_SUFFIXES)


def find_files(folder: Path, suffixes: Container[str]) -> list[Path]:
    """Files of a folder and its subfolders, sorted by their paths.

    Hidden files are left out: macOS leaves ``._NAME`` beside NAME on other file systems.

    Args:
        folder: where to look.
        suffixes: in lower case; those of files may be in upper case.
    """
    found = (p for p in _files(folder) if p.suffix.lower() in suffixes)
    return sorted(p for p in found if not p.name.startswith("."))


def convert(
    reader: Reader, classes: Sequence[tuple[int, str]] | None = None
) -> tuple[dict[str, Split], list[str]]:
    """Write a dataset as COCO files into the cache, unless they are there.

    The key is made of the names, sizes and times of all its files.

    Args:
        reader: the dataset.
        classes: ids and names of the classes, for a dataset that has no list of them.

    Returns:
        The COCO file and folder of images of each split, by name; and warnings.

    Raises:
        DatasetError: if the dataset cannot be read; the message has all problems.
    """
    target = cache_folder() / "converted" / f"{_stem(reader.path)}_{_key(reader, classes)}"
    found = target.exists()
    if not found:
        report = Report(reader.path)
        labels = reader.read(report, [name for _, name in classes] if classes else None)
        report.raise_errors()
        ids = [i for i, _ in classes] if classes else list(range(1, len(labels.classes) + 1))
        write_once(target, lambda folder: _write(folder, labels, ids, report.warnings))
    manifest = json.loads((target / "manifest.json").read_text("utf-8"))
    logger.info(
        "%s: %s, %s COCO files in %s",
        *(reader.path, reader.format, "using the" if found else "converted to", target),
    )
    splits = {
        name: (target / f"{name or 'all'}.json", Path(root))
        for name, root in manifest["roots"].items()
    }
    return splits, manifest["warnings"]


def _write(folder: Path, labels: Labels, ids: Sequence[int], warnings: list[str]) -> None:
    folder.mkdir()
    roots = {}
    categories = [{"id": i, "name": n} for i, n in zip(ids, labels.classes, strict=True)]
    for name, images in labels.splits.items():
        root = os.path.commonpath([image.file.parent for image in images])
        roots[name] = root
        data: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
        for number, image in enumerate(images, 1):
            file_name = image.file.relative_to(root).as_posix()
            data["images"].append(
                {
                    "id": number,
                    "file_name": file_name,
                    "width": image.width,
                    "height": image.height,
                }
            )
            for annotation in image.objects:
                annotation["id"] = len(data["annotations"]) + 1
                annotation["image_id"] = number
                annotation["category_id"] = ids[annotation["category_id"]]
                data["annotations"].append(annotation)
        (folder / f"{name or 'all'}.json").write_text(json.dumps(data), "utf-8")
    manifest = {"roots": roots, "warnings": warnings}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def _key(reader: Reader, classes: Sequence[tuple[int, str]] | None) -> str:
    digest = hashlib.sha256(f"{VERSION} {reader.format} {reader.path} {classes}".encode())
    for root in reader.roots:
        for file in sorted(_files(root)):
            state = file.stat()
            digest.update(
                f"\n{file} {state.st_size} {state.st_mtime_ns}".encode("utf-8", "replace")
            )
    return digest.hexdigest()[:16]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _stem(path: Path) -> str:
    named = path.parent if path.is_file() else path
    return "".join(c if c.isalnum() else "_" for c in named.name) or "data"


def polygon_box(polygons: Iterable[Sequence[float]]) -> tuple[float, float, float, float]:
    """The box (x, y, width, height) around polygons (x, y, x, y, ...)."""
    points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return float(x1), float(y1), float(x2 - x1), float(y2 - y1)


def _polygon_area(polygon: Sequence[float]) -> float:
    x, y = np.reshape(polygon, (-1, 2)).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def split_name(name: str) -> str:
    """ "train", "val" or "test" for the names that programs give these; "" for others."""
    return SPLIT_NAMES.get(name.lower(), "")


SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
