"""Reading a COCO annotation file and reporting everything that is wrong with it at once."""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CocoFile", "DatasetError", "check_same_categories", "read_coco"]

logger = logging.getLogger(__name__)

SHOWN = 5  # examples of a kind of problem in a message


class DatasetError(ValueError):
    """A dataset cannot be used as it is; the message names its file and every problem."""


@dataclass
class CocoFile:
    """A COCO annotation file that passed the checks."""

    path: Path
    image_root: Path
    data: dict
    """The content of the file."""

    @property
    def categories(self) -> list[tuple[int, str]]:
        """Ids and names, sorted by id."""
        return sorted((c["id"], c["name"]) for c in self.data["categories"])

    @property
    def class_names(self) -> list[str]:
        return [name for _, name in self.categories]


def read_coco(path: str | Path, image_root: str | Path) -> CocoFile:
    """Read a COCO annotation file and check it against itself and the folder of its images.

    Boxes of no size or beside their image are counted and logged: training skips them.

    Args:
        path: the JSON file. Category ids may be any integers.
        image_root: the folder that its file names start from.

    Raises:
        FileNotFoundError: the file, or the folder, does not exist.
        DatasetError: all problems found, with examples.
    """
    path, image_root = Path(path), Path(image_root)
    if not path.is_file():
        raise FileNotFoundError(f"There is no annotation file {path}.")
    if not image_root.is_dir():
        raise FileNotFoundError(f"There is no folder of images {image_root} (for {path}).")
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:  # of JSON, or of its text encoding
        raise DatasetError(f"{path} is not a JSON file: {error}.") from error
    _check_tables(path, data)

    problems = [
        *_id_problems(data),
        *_category_problems(data["categories"]),
        *_image_problems(data["images"]),
        *_annotation_problems(data),
    ]
    if not problems:
        problems = list(_missing_files(data["images"], image_root))
    if problems:
        raise DatasetError(
            f"{path} cannot be used as it is:" + "".join(f"\n  - {p}" for p in problems)
        )
    _log_unusable_boxes(path, data)
    return CocoFile(path, image_root, data)


def check_same_categories(train: CocoFile, val: CocoFile) -> None:
    """Training and validation must have the same category ids and names.

    Raises:
        DatasetError: shows both, and what only one of them has.
    """
    if train.categories == val.categories:
        return
    lines = [
        f"  {file.path}: " + ", ".join(f"{i} {name}" for i, name in file.categories)
        for file in (train, val)
    ]
    for one, other in ((train, val), (val, train)):
        only = [f"{i} {n}" for i, n in one.categories if (i, n) not in other.categories]
        if only:
            lines.append(f"  only in {one.path}: " + ", ".join(only))
    raise DatasetError(
        "The categories (id and name) of the training and the validation file differ:\n"
        + "\n".join(lines)
        + '\nGive both files the same "categories"; a class may have no object in one of them.'
    )


def _check_tables(path: Path, data: Any) -> None:
    if isinstance(data, list):
        raise DatasetError(
            f"{path} holds a list, as files of COCO results do. Annotations are an object with "
            '"images", "annotations" and "categories".'
        )
    missing = [
        f'"{key}"'
        for key in ("images", "annotations", "categories")
        if not isinstance(data, dict) or not isinstance(data.get(key), list)
    ]
    if missing:
        raise DatasetError(
            f"{path} has no list of {', '.join(missing)}: a COCO annotation file has "
            '"images", "annotations" and "categories".'
        )


def _id_problems(data: dict) -> Iterable[str]:
    for table in ("images", "annotations", "categories"):
        odd = [e["id"] for e in data[table] if "id" in e and type(e["id"]) is not int]
        if odd:
            yield f"ids of {table} that are not whole numbers: {_some([repr(i) for i in odd])}"


def _category_problems(categories: list[dict]) -> Iterable[str]:
    if not categories:
        yield 'there are no "categories"'
    lacking = [c for c in categories if "id" not in c or "name" not in c]
    if lacking:
        yield f"{len(lacking)} categories lack an id or a name, as {lacking[0]}"
        return
    for key in ("id", "name"):
        twice = _repeated(c[key] for c in categories)
        if twice:
            yield f"several categories have the {key} {_some(twice)}"


def _image_problems(images: list[dict]) -> Iterable[str]:
    if not images:
        yield 'there are no "images"'
    for key in ("id", "file_name", "width", "height"):
        lacking = [i for i in images if key not in i]
        if lacking:
            yield f'{len(lacking)} images lack "{key}", as {lacking[0]}'
    twice = _repeated(i["id"] for i in images if "id" in i)
    if twice:
        yield f"several images have the id {_some(twice)}"


def _annotation_problems(data: dict) -> Iterable[str]:
    annotations = data["annotations"]
    for key in ("id", "image_id", "category_id", "bbox"):
        lacking = [a for a in annotations if key not in a]
        if lacking:
            example = {k: v for k, v in lacking[0].items() if k != "segmentation"}
            yield f'{len(lacking)} annotations lack "{key}", as {example}'
    twice = _repeated(a["id"] for a in annotations if "id" in a)
    if twice:
        yield f"several annotations have the id {_some(twice)}: each needs its own"
    for key, table in (("image_id", "images"), ("category_id", "categories")):
        known = {entry.get("id") for entry in data[table]}
        strangers = [a for a in annotations if key in a and a[key] not in known]
        if strangers:
            ids = sorted({a[key] for a in strangers}, key=str)
            yield f'{len(strangers)} annotations have a {key} that "{table}" lacks: {_some(ids)}'
    bad = [a.get("id") for a in annotations if "bbox" in a and not _is_box(a["bbox"])]
    if bad:
        yield f"boxes that are not four finite numbers (x, y, width, height): ids {_some(bad)}"
    ignored = [a.get("id") for a in annotations if a.get("ignore", 0)]
    if ignored:
        yield (
            f'{len(ignored)} annotations are marked "ignore" (ids {_some(ignored)}), which '
            'Detectron2 does not know: remove them, or mark regions with "iscrowd": 1'
        )


def _missing_files(images: list[dict], image_root: Path) -> Iterable[str]:
    missing = [i["file_name"] for i in images if not (image_root / i["file_name"]).is_file()]
    if missing:
        yield f"{len(missing)} of {len(images)} images are not in {image_root}: {_some(missing)}"


def _log_unusable_boxes(path: Path, data: dict) -> None:
    sizes = {i["id"]: (i["width"], i["height"]) for i in data["images"]}
    small, outside = [], []
    for a in data["annotations"]:
        x, y, w, h = a["bbox"]
        width, height = sizes[a["image_id"]]
        if w < 1 or h < 1:
            small.append(a["id"])
        elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
            outside.append(a["id"])
    for ids, what in ((small, "are less than a pixel wide or high"), (outside, "miss their image")):
        if ids:
            logger.warning(
                "%s: %d of %d boxes %s and are left out of training (annotations %s).",
                path,
                len(ids),
                len(data["annotations"]),
                what,
                _some(ids),
            )


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and math.isfinite(v) for v in box)
    )


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _some(values: list) -> str:
    shown = ", ".join(str(v) for v in values[:SHOWN])
    return shown + (f", ... ({len(values)} in all)" if len(values) > SHOWN else "")
