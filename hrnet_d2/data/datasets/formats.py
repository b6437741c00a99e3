"""Recognize the format of custom data by its content, and give all of them as COCO files."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_d2.data.cache import cached_json

from .coco_check import parse, read_coco
from .coco_layout import find_coco, images_of
from .conversion import Reader, Split, convert
from .cvat import find_cvat
from .label_studio import find_label_studio
from .report import DatasetError, Report
from .voc import find_voc
from .yolo import find_yolo

__all__ = ["CustomData", "Given", "find_data", "resolve_data", "split_images"]

logger = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2")

Given = str | Path | Sequence[str | Path]
"""Data as users give them: a path, or an annotation file and a folder of images."""


@dataclass
class CustomData:
    """A dataset as COCO files."""

    format: str
    path: Path
    """What the user gave."""
    splits: dict[str, Split]
    """COCO file and folder of images of "train", "val" and "test"; "" for data that are not
    divided."""
    warnings: list[str] = field(default_factory=list)
    """What the conversion took for granted."""

    def choose(self, *names: str) -> Split:
        """The first of these splits that there is.

        Raises:
            DatasetError: if there is none of them.
        """
        for name in names:
            if name in self.splits:
                return self.splits[name]
        raise DatasetError(
            f"{self.path} ({self.format}) has no {names[0]} split, only "
            f"{', '.join(map(repr, self.splits))}"
        )


def find_data(given: Given, like: Split | None = None) -> CustomData:
    """Recognize data by their content, and convert them if they are not COCO's.

    Args:
        given: one of

            - a COCO annotation file and the folder of its images, or the file alone with its
              images near it;
            - a folder of COCO files and images, such as Roboflow's or COCO's own;
            - a YOLO dataset: ``data.yaml``, ``obj.data`` or the folder of one;
            - a folder of Pascal VOC's XML files and images;
            - an export of CVAT ("CVAT for images"), its XML file or folder;
            - an export of Label Studio ("JSON"), its file or folder.
        like: a COCO file, and folder of images, with the classes of data that have no list of
            them (Pascal VOC, Label Studio). Otherwise these are the classes of their objects,
            sorted by name.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        DatasetError: if the format is not known, or the data cannot be read.
    """
    path, images = _paths(given)
    labeled = path.is_file() and path.suffix == ".json"
    reader: Reader | None = find_label_studio(path, images) if labeled else None
    if images is not None and reader is None:
        return CustomData("COCO", path, {"": (path, images)})
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    if reader is None:
        path = Path(os.path.abspath(path))  # the same key in the cache from every folder
        if labeled:
            return CustomData("COCO", path, {"": (path, images_of(path))})
        reader = find_yolo(path) or find_cvat(path)
    if reader is None and path.is_dir():
        coco = find_coco(path)
        if coco:
            return CustomData("COCO", path, coco, _others(path, "COCO"))
        reader = find_voc(path) or find_label_studio(path)
    if reader is None and path.is_file() and path.suffix in ARCHIVES:
        raise DatasetError(f"{path} is an archive: unpack it, and give the folder")
    if reader is None:
        raise DatasetError(
            f"The format of {path} is not known. Known are COCO (a JSON file, or a folder with "
            "one for each split), YOLO (data.yaml, or images/ and labels/ with classes.txt), "
            "Pascal VOC (XML files, beside the images or in Annotations/), CVAT (annotations.xml) "
            "and Label Studio (its JSON file). The folder of a dataset holds these itself, or in "
            "train/, valid/ and test/"
        )
    classes = None if reader.lists_classes else _categories(like)
    splits, warnings = convert(reader, classes)
    warnings = [*_others(path, reader.format), *warnings]
    for warning in warnings:
        logger.warning("%s: %s", path, warning)
    return CustomData(reader.format, path, splits, warnings)


def resolve_data(
    train: Given | None,
    val: Given | None,
    *,
    val_fraction: float = 0.0,
    seed: int = 0,
) -> tuple[Split | None, Split | None]:
    """COCO files and folders of images to train and to evaluate on.

    Args:
        train: data to train on. If they have a validation split, and ``val`` is None, it is used.
        val: data to evaluate on: their validation split, or else their test split, or all.
        val_fraction: this part of the training images is taken out for validation.
        seed: decides which images these are.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        DatasetError: if data cannot be read, or the arguments contradict each other.
    """
    if val_fraction and not 0 < val_fraction < 1:
        raise DatasetError(
            f"The fraction for validation must be above 0 and below 1, got {val_fraction}"
        )
    if val_fraction and (val is not None or train is None):
        raise DatasetError(
            "A fraction for validation is taken from training data (--train-data), if no "
            "validation data (--val-data) are given"
        )
    chosen = None
    found = None
    if train is not None:
        data = find_data(train)
        chosen = data.choose("train", "")
        if val is None and not val_fraction and "val" in data.splits:
            found = data.splits["val"]
            logger.info("Evaluating on the validation split of %s", data.path)
        if val_fraction:
            if "val" in data.splits:
                raise DatasetError(
                    f"{data.path} has a validation split: leave out the fraction for validation "
                    "(--val-fraction), or give the folder of the training split alone"
                )
            chosen, found = split_images(chosen, val_fraction, seed)
    if val is not None:
        found = find_data(val, chosen).choose("val", "test", "")
    return chosen, found


def split_images(source: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide the images of a COCO file at random, with their annotations.

    Args:
        source: the file and its folder of images.
        fraction: the part of the images for validation, at least one image.
        seed: the same seed divides the same images alike, whatever their order in the file.

    Returns:
        Files for training and validation, in the cache, with the same folder of images.

    Raises:
        FileNotFoundError: if the file is missing.
        DatasetError: if it is invalid, or has less than two images.
    """
    path, root = source
    if not path.is_file():
        raise FileNotFoundError(f"There is no annotation file {path}")
    data = parse(path, Report(path))
    try:
        parts = _divide(data, fraction, seed)
    except (AttributeError, KeyError, TypeError):
        read_coco(path, root, allow_outside_files=True)  # raises with everything that is wrong
        raise
    if parts is None:
        raise DatasetError(f"{path} has {len(data['images'])} images, too few to divide")
    logger.info(
        "%s: %d images to train on and %d to evaluate on, divided at random with seed %d",
        *(path, *(len(part["images"]) for part in parts), seed),
    )
    train, val = (
        cached_json(part, f"{path.stem}_{name}")
        for name, part in zip(("train", "val"), parts, strict=True)
    )
    return (train, root), (val, root)


def _divide(data: dict, fraction: float, seed: int) -> list[dict] | None:
    """The content for training and for validation; None if one of them would have no image."""
    images = sorted(data["images"], key=lambda image: image["file_name"])
    count = max(1, round(len(images) * fraction))
    if count >= len(images):
        return None
    order = np.random.RandomState(seed).permutation(len(images))
    held_out = {images[i]["id"] for i in order[:count]}
    return [
        {
            **data,
            "images": [i for i in data["images"] if (i["id"] in held_out) == wanted],
            "annotations": [
                a for a in data["annotations"] if (a["image_id"] in held_out) == wanted
            ],
        }
        for wanted in (False, True)
    ]


def _others(path: Path, chosen: str) -> list[str]:
    """A warning if a folder has the files of another format as well."""
    finders: dict[str, Callable[[Path], Any]] = {"COCO": find_coco, "Pascal VOC": find_voc}
    others = []
    for name, find in finders.items():
        with contextlib.suppress(DatasetError, OSError):
            if name != chosen and path.is_dir() and find(path):
                others.append(name)
    if not others:
        return []
    return [
        f"it also has files of {' and '.join(others)}: those of {chosen} are used. Give the file "
        "or folder of the others to use them"
    ]


def _paths(given: Given) -> tuple[Path, Path | None]:
    if isinstance(given, str | Path):
        return Path(given), None
    paths = [Path(p) for p in given]
    if len(paths) not in (1, 2):
        raise DatasetError(
            "Data are a path, or an annotation file and a folder of images; got "
            f"{len(paths)} paths: {', '.join(map(str, paths))}"
        )
    if len(paths) == 1:
        return paths[0], None
    return paths[0], paths[1]


def _categories(source: Split | None) -> list[tuple[int, str]] | None:
    """Ids and names of a COCO file, if it can be read: otherwise its check says why."""
    if source is None:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads(source[0].read_bytes())
        return sorted((c["id"], c["name"]) for c in data["categories"])
    return None
