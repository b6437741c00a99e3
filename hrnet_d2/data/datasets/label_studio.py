"""Label Studio's own export (JSON): a list of tasks, each with an image and its regions."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from .coco_check import parse
from .conversion import (
    IMAGE_SUFFIXES,
    ImageSizes,
    LabeledImage,
    Labels,
    Problems,
    find_images,
    polygon_box,
)
from .report import DatasetError, Report, some
from .voc import class_list

__all__ = ["LabelStudioData", "find_label_studio"]

HEAD = 1 << 16
# Regions that are no boxes or polygons, and would be lost.
LOST = ("brush", "ellipse", "keypoint", "video", "vector", "bitmask")
PREFIX = 9  # "1a2b3c4d-": what Label Studio puts before the name of an uploaded file
MOST = 1e6  # percent of the image: what no region has


def find_label_studio(path: Path, images: Path | None = None) -> "LabelStudioData | None":
    """The dataset of an export, or of the folder of one; None for other files.

    Args:
        path: a JSON file, or a folder with one.
        images: the folder of the images; default, that of the file.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []
    found = [file for file in files if file.suffix == ".json" and _is_export(file)]
    if len(found) > 1:
        raise DatasetError(f"{path} has several exports of Label Studio: {some(found)}. Give one")
    if not found:
        return None
    folder = Path(os.path.abspath(images or found[0].parent))
    return LabelStudioData(Path(os.path.abspath(path)), found[0], folder)


def _is_export(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    regions = any(key in head for key in (b'"original_width"', b'"was_cancelled"'))
    return head[:1] == b"[" and regions


class LabelStudioData:
    """An export of Label Studio as "JSON" or "JSON-MIN"; see :class:`conversion.Reader`.

    Of several annotations of a task the one marked as ground truth counts, or else the newest.
    Skipped tasks and those without an annotation are left out; a task whose annotation has no
    region is an image without objects.
    """

    format = "Label Studio"

    def __init__(self, path: Path, file: Path, images: Path):
        """
        Args:
            path: what the user gave.
            file: the JSON file.
            images: the folder that has the images, at any depth.
        """
        self.path = path
        self.file = file
        self.images = images
        self.roots = [file, images]
        self._classes = class_list(file.parent)
        self.lists_classes = self._classes is not None

    def read(self, report: Report, classes: Sequence[str] | None) -> Labels:
        problems = Problems(self.images)
        tasks = self._tasks(report)
        files: dict[str, list[Path]] = {}
        for path in find_images(self.images):
            files.setdefault(path.name, []).append(path)
        found, unlabeled, several = [], 0, 0
        for number, task in enumerate(tasks, 1):
            try:
                regions, count = _regions(task)
                several += count > 1
                if regions is None:
                    unlabeled += 1
                    continue
                name = _image_name(task)
                shapes = list(_shapes(regions))
            except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError):
                problems.add("tasks cannot be read", _label(task, number))
                continue
            file = _file(name, files, problems)
            if file is not None:
                found.append((file, shapes, _label(task, number)))
        used = sorted({label for _, shapes, _ in found for label, *_ in shapes if label})
        names = self._classes or (used if classes is None else list(classes))
        if set(used) - set(names):
            source = "classes.txt" if self._classes else "the training data"
            report.errors.append(
                f"classes that {source} does not have: {some(sorted(set(used) - set(names)))}"
            )
        index = {name: i for i, name in enumerate(names)}
        sizes = ImageSizes(problems)
        images = []
        for file, shapes, where in found:
            size = sizes(file)
            if size is not None:
                images.append(LabeledImage(file, *size))
                _add(images[-1], shapes, where, index, problems)
        problems.report(report.errors)
        if unlabeled:
            report.warnings.append(f"{unlabeled} tasks have no annotation and are left out")
        if several:
            report.warnings.append(
                f"{several} tasks have several annotations: the ground truth, or else the newest, "
                "is used"
            )
        if not names:
            report.errors.append("no task has a region with a label")
        return Labels(list(names), {"": images})

    def _tasks(self, report: Report) -> list[dict]:
        data = parse(self.file, report)
        if not isinstance(data, list) or not all(isinstance(task, dict) for task in data):
            raise DatasetError(f"{self.file} is not an export of Label Studio: no list of tasks")
        return data


def _label(task: dict, number: int) -> str:
    return f"task {task.get('id', f'number {number}')}"


def _regions(task: dict) -> tuple[list[dict] | None, int]:
    """The regions of a task, None without an annotation; and the number of its annotations."""
    if "annotations" not in task:  # JSON-MIN, whose regions are under the names of the labels
        lists = [v for v in task.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        regions = [{"value": value} for values in lists for value in values]
        return regions, 1
    given = [a for a in task["annotations"] if not a.get("was_cancelled")]
    if not given:
        return None, 0
    best = max(
        given,
        key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at", "")), a.get("id", 0)),
    )
    return list(best["result"]), len(given)


def _image_name(task: dict) -> str:
    """The name of a task's image, of its address or path."""
    data = task.get("data", task)
    texts = [data["image"]] if isinstance(data.get("image"), str) else list(data.values())
    for text in texts:
        if not isinstance(text, str):
            continue
        parts = urlsplit(text)
        # Local storage: /data/local-files/?d=FOLDER/NAME
        place = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
        name = PurePosixPath(place.replace("\\", "/")).name
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            return name
    raise ValueError("no image")


def _file(name: str, files: dict[str, list[Path]], problems: Problems) -> Path | None:
    """The image of this name, or of the name that it had before it was uploaded."""
    uploaded = name[PREFIX:] if name[PREFIX - 1 : PREFIX] == "-" else name
    found = files.get(name) or files.get(uploaded)
    if not found:
        problems.add(f"images are not in {problems.root}", name)
        return None
    if len(found) > 1:
        problems.add("names of images are those of several files", name)
        return None
    return found[0]


def _shapes(regions: list[dict]) -> Iterator[tuple[str, str, list[float], dict]]:
    """Label, kind, numbers in percent (x, y, width, height, rotation of a box, or x, y, ... of a
    polygon; none of others), and region, for each label of the regions."""
    for region in regions:
        value = region["value"]
        lists = [key for key in value if key.endswith("labels") and isinstance(value[key], list)]
        kind = region.get("type", lists[0] if lists else "")
        if any(word in kind for word in LOST) or "points" not in value and "x" not in value:
            yield "", kind, [], region
            continue
        if "points" in value:
            numbers = [float(v) for point in value["points"] for v in point]
            kind = "polygon"
        else:
            keys = ("x", "y", "width", "height")
            numbers = [*(float(value[key]) for key in keys), float(value.get("rotation") or 0)]
            kind = "box"
        for key in lists:
            for label in value[key]:
                yield str(label), kind, numbers, region


def _add(
    image: LabeledImage,
    shapes: list[tuple[str, str, list[float], dict]],
    where: str,
    classes: dict[str, int],
    problems: Problems,
) -> None:
    w, h = image.width, image.height
    for label, kind, numbers, region in shapes:
        if not numbers:
            if any(word in kind for word in LOST):
                problems.add(
                    "regions are no boxes or polygons and would be lost (export COCO or YOLO from "
                    "Label Studio)",
                    f"{where} ({kind})",
                )
            continue  # a choice or text about the image
        if not all(math.isfinite(v) and abs(v) < MOST for v in numbers):
            problems.add(f"regions have numbers that are not finite, or beyond {MOST:.0f} %", where)
            continue
        value = region["value"]
        stated = [region.get(k, value.get(k)) for k in ("original_width", "original_height")]
        if None not in stated and stated != [w, h]:
            problems.add(
                "regions are of another size of their image",
                f"{where} ({stated[0]} x {stated[1]}, {image.file.name} {w} x {h})",
            )
            continue
        if region.get("image_rotation", value.get("image_rotation")):
            problems.add("images were rotated in Label Studio, which is not supported", where)
            continue
        if label not in classes:
            continue
        if kind == "polygon" and len(numbers) >= 6:
            points = [v * (h if i % 2 else w) / 100 for i, v in enumerate(numbers)]
            image.add(classes[label], polygon_box([points]), [points])
        elif kind == "box":
            x, y, width, height = (
                _pixels(v, side) for v, side in zip(numbers[:4], (w, h, w, h), strict=True)
            )
            if numbers[4]:
                points = _rotated(x, y, width, height, numbers[4])
                image.add(classes[label], polygon_box([points]), [points])
            else:
                image.add(classes[label], (x, y, width, height), [])


def _pixels(percent: float, side: int) -> float:
    """Whole pixels where a percentage is of these, as far as its digits tell."""
    value = percent * side / 100
    return float(round(value)) if abs(value - round(value)) < 1e-6 * side else value


def _rotated(x: float, y: float, w: float, h: float, degrees: float) -> list[float]:
    """Corners of a box that is turned clockwise around its upper left corner."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)]
    return [v for dx, dy in corners for v in (x + dx * c - dy * s, y + dx * s + dy * c)]
