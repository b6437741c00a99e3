"""Reading a COCO annotation file and reporting everything that is wrong with it at once."""

import contextlib
import gc
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from .coco_schema import (
    check_annotations,
    check_categories,
    check_images,
    check_tables,
    renumber_ids,
)
from .report import DatasetError, Report, entry_id, some

__all__ = [
    "CocoFile",
    "DatasetError",
    "check_coco",
    "check_same_categories",
    "explain_unreadable",
    "inspect_coco",
    "nothing_to_learn",
    "parse",
    "read_coco",
]

logger = logging.getLogger(__name__)


@dataclass
class CocoFile:
    """A COCO annotation file that passed the checks."""

    path: Path
    image_root: Path
    data: dict
    """The content of the file, repaired."""
    categories: list[tuple[int, str]]
    """Ids and names as the file has them, sorted by id."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of annotations, see :func:`coco_schema.check_annotations`."""
    repairs: list[str] = field(default_factory=list)
    """How ``data`` differs from the file."""
    without_pixels: list[dict] = field(default_factory=list)
    """Annotations whose segmentation has no pixel; only looked for with ``masks``."""
    not_to_read: set[str] = field(default_factory=set)
    """File names that are missing, no plain files, or lead out of the folder."""

    @property
    def class_names(self) -> list[str]:
        return [name for _, name in self.categories]

    @property
    def category_ids(self) -> list[int]:
        """Ids of the categories in ``data``, in the order of ``categories``."""
        return sorted(c["id"] for c in self.data["categories"])


def read_coco(
    path: str | Path,
    image_root: str | Path,
    *,
    masks: bool = False,
    allow_outside_files: bool = False,
) -> CocoFile:
    """Read a COCO annotation file; check its fields, and that its images exist.

    What has only one meaning is repaired in the content that is returned; boxes without size or
    outside their image, which training skips, are counted and logged.

    Args:
        path: the JSON file, in UTF-8, UTF-16 or UTF-32. Category ids may be any integers.
        image_root: the folder that its file names start from.
        masks: malformed segmentations are errors. Otherwise they are removed, and logged.
        allow_outside_files: accept file names that lead out of ``image_root``, by "..", as
            absolute paths or through links.

    Raises:
        FileNotFoundError: if the file, or the folder, does not exist.
        DatasetError: if the file is invalid; the message has all problems, with examples.
    """
    file, report = inspect_coco(
        path, image_root, masks=masks, allow_outside_files=allow_outside_files
    )
    report.raise_errors()
    report.log_warnings(logger)
    assert file is not None
    return file


def inspect_coco(
    path: str | Path,
    image_root: str | Path,
    *,
    masks: bool = False,
    allow_outside_files: bool = False,
) -> tuple[CocoFile | None, Report]:
    """As :func:`read_coco`, with all problems in a report instead of an error.

    Returns:
        The file, or None if its fields are invalid (missing images do not count), and the report.

    Raises:
        FileNotFoundError: if the file, or the folder, does not exist.
        DatasetError: if the file is not JSON, or one of its tables is missing.
    """
    path, image_root = Path(path), Path(image_root)
    if not path.is_file():
        raise FileNotFoundError(f"There is no annotation file {path}")
    if not image_root.is_dir():
        raise FileNotFoundError(f"There is no folder of images {image_root} (for {path})")
    report = Report(path)
    with _no_garbage_collection():
        data = parse(path, report)
        counts = check_coco(data, report, masks=masks)
        valid = not report.errors
        named = [i for i in data["images"] if isinstance(i, dict) and _has_name(i)]
        not_to_read = _check_files(named, image_root, allow_outside_files, report)
        if not valid:
            return None, report
        categories = sorted((c["id"], c["name"]) for c in data["categories"])
        if not report.errors:
            renumber_ids(data, report)
    found = CocoFile(
        path,
        image_root,
        data,
        categories,
        counts,
        report.repairs,
        report.without_pixels,
        not_to_read,
    )
    return found, report


def _has_name(image: dict) -> bool:
    return isinstance(image.get("file_name"), str) and "id" in image


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A file has millions of objects without cycles: looking for some takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse(path: str | os.PathLike[str], report: Report) -> Any:
    """The content of a JSON file, whatever encoding of Unicode it is in.

    Raises:
        DatasetError: if it is not JSON.
    """
    raw = Path(path).read_bytes()
    encoding = json.detect_encoding(raw)
    repeated: list[tuple[dict, list[str]]] = []
    same = True

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal same
        entry = dict(pairs)
        if len(entry) != len(pairs):
            keys = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
            repeated.append((entry, keys))
            same = same and all(entry[key] == value for key, value in pairs)
        return entry

    try:
        data = json.loads(raw, object_pairs_hook=build)
    except ValueError as error:  # of JSON, of its text encoding, or of numbers
        raise DatasetError(f"{path} is not a JSON file: {error}") from error
    except RecursionError as error:
        raise DatasetError(
            f"{path} is not an annotation file: its JSON is nested too deeply"
        ) from error
    if repeated:
        _report_repeated(data, repeated, same, report)
    if encoding != "utf-8":
        report.repairs.append(f"the encoding {encoding}, which other tools do not read")
    return data


def _report_repeated(
    data: Any, repeated: list[tuple[dict, list[str]]], same: bool, report: Report
) -> None:
    """Keys that an object has twice; JSON leaves open which value counts, Python takes the last."""
    places = [
        ", ".join(f'"{key}"' for key in keys)
        + (" at the top of the file" if entry is data else f" (id {entry_id(entry)})")
        for entry, keys in repeated
    ]
    text = f"{len(repeated)} objects have a key twice: {some(places)}"
    if same:
        report.warnings.append(f"{text}; the values are the same")
    else:
        report.errors.append(f"{text}. Only one value of each would be read: remove the other")


def check_coco(
    data: Any, report: Report, *, masks: bool = False, lenient: bool = False
) -> dict[str, int]:
    """Check the content of an annotation file, and repair in place what has only one meaning.

    Args:
        data: the parsed JSON.
        report: takes the problems; errors are not raised, except for missing tables.
        masks: malformed segmentations are errors.
        lenient: accept what Detectron2's loader accepts.

    Returns:
        Numbers of annotations, see :func:`coco_schema.check_annotations`.

    Raises:
        DatasetError: if one of the three tables is missing.
    """
    check_tables(data, report)
    check_categories(data, report, lenient=lenient)
    sizes = check_images(data, report)
    return check_annotations(data, sizes, report, masks=masks, lenient=lenient)


def nothing_to_learn(file: CocoFile) -> str:
    """Why a file has no object to train on, as the end of a sentence; "" if it has some."""
    total, counts = len(file.data["annotations"]), file.counts
    if not total:
        return "has no annotations: there is nothing to learn"
    if counts["usable"]:
        return ""
    return (
        f"has no object to learn from: of {total} annotations {counts['crowds']} are crowds "
        f'("iscrowd": 1), and the boxes of {counts["small"]} are less than a pixel wide or high, '
        f"of {counts['outside']} outside their image"
    )


def explain_unreadable(json_file: str, error: Exception) -> None:
    """Find out why an annotation file could not be loaded.

    Args:
        json_file: the file.
        error: what was raised on loading it.

    Raises:
        DatasetError: if the file is invalid; the message has all problems. Nothing is raised if
            it is not the reason.
    """
    path = PathManager.get_local_path(json_file)
    if not os.path.isfile(path):
        return
    report = Report(json_file)
    try:
        check_coco(parse(path, report), report)
        if report.repairs and not report.errors:
            raise DatasetError(
                f"{json_file} cannot be used as it is: {'; '.join(report.repairs)}. Register it "
                "with hrnet_d2.data.register_custom_data, which makes a corrected copy"
            )
        report.raise_errors()
    except DatasetError as found:
        raise found from error


def check_same_categories(train: CocoFile, val: CocoFile) -> None:
    """Check that training and validation have the same category ids and names.

    Raises:
        DatasetError: if they differ; the message has both, and what only one of them has.
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
        + '\nGive both files the same "categories"; a class may have no object in one of them'
    )


def _check_files(
    images: list[dict], image_root: Path, allow_outside: bool, report: Report
) -> set[str]:
    """Check that the images exist, inside their folder; returns the names that do not."""
    root = os.path.realpath(image_root)
    inside: dict[str, bool] = {}  # by folder, which saves a look at every part of every path
    missing, outside = [], []
    for image in images:
        name = image["file_name"]
        path = os.path.join(image_root, name)
        folder = os.path.dirname(path)
        try:
            if folder not in inside:
                inside[folder] = _is_inside(folder, root)
            within = inside[folder]
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                within = within and _is_inside(path, root)
                mode = os.stat(path).st_mode
            exists = stat.S_ISREG(mode)
        except (OSError, ValueError):  # also for names that no file can have
            exists = False
        if not within and not allow_outside:
            outside.append(name)
        elif not exists:
            missing.append(name)
    if missing:
        report.errors.append(
            f"{len(missing)} of {len(images)} images are not in {image_root}: {some(missing)}"
        )
    if outside:
        report.errors.append(
            f'{len(outside)} file names lead out of {image_root} (by "..", as absolute paths or '
            f"through links): {some(outside)}. If you trust the file, set "
            "DATASETS.ALLOW_OUTSIDE_FILES True (in Python, allow_outside_files=True)"
        )
    _find_duplicates(images, report)
    return {*missing, *outside}


def _is_inside(path: str, root: str) -> bool:
    real = os.path.realpath(path)
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


def _find_duplicates(images: list[dict], report: Report) -> None:
    ids: dict[str, list[int]] = {}
    for image in images:
        name = image["file_name"]
        if "./" in name or "//" in name:
            name = os.path.normpath(name)
        ids.setdefault(name, []).append(image["id"])
    twice = {name: found for name, found in ids.items() if len(found) > 1}
    if twice:
        examples = some(f"{name} (ids {some(found)})" for name, found in twice.items())
        report.warnings.append(
            f"{len(twice)} files are listed as several images, each with only a part of the "
            f"objects if these were divided: {examples}. Give each file one id"
        )
