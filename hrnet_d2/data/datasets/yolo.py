"""Datasets in YOLO's format: a text file of boxes or polygons for each image."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .conversion import (
    LONGEST_NAME,
    SPLIT_NAMES,
    ImageSizes,
    LabeledImage,
    Labels,
    Problems,
    find_files,
    find_images,
    polygon_box,
    split_name,
)
from .report import DatasetError, Report, some
from .text_files import is_there, read_lines, read_yaml

__all__ = ["YoloData", "find_yolo"]

CLASS_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")
PRECISION = 1e-6
SLACK = 0.01  # by which coordinates may leave 0 ... 1: programs round, and so does Ultralytics


def find_yolo(path: Path) -> "YoloData | None":
    """The dataset that a ``data.yaml``, an ``obj.data``, or the folder of one describes.

    A folder without a description needs ``images`` and ``labels``, at its top or in each split,
    and a list of the names of the classes.
    """
    if path.is_file():
        if path.suffix in (".yaml", ".yml"):
            return YoloData(path, *_from_yaml(path, read_yaml(path)))
        return YoloData(path, *_from_darknet(path)) if path.name == "obj.data" else None
    for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        data = read_yaml(file)
        if isinstance(data, dict) and "names" in data:
            return YoloData(path, *_from_yaml(file, data))
    if (path / "obj.data").is_file():
        return YoloData(path, *_from_darknet(path / "obj.data"))
    return _from_folders(path)


class YoloData:
    """A dataset in YOLO's format; see :class:`conversion.Reader`."""

    format = "YOLO"
    lists_classes = True

    def __init__(
        self,
        path: Path,
        roots: list[Path],
        classes: list[str],
        splits: dict[str, list[Path]],
        keypoints: bool,
        moved: Sequence[str] = (),
    ):
        """
        Args:
            path: what the user gave.
            roots: files and folders with all that is read.
            classes: their names.
            splits: folders of images and lists of image files, by the name of the split.
            keypoints: rows have keypoints after the box, which are left out.
            moved: places that were found elsewhere than the description says; for a warning.
        """
        self.path = path
        self.classes = classes
        self.splits = splits
        self.keypoints = keypoints
        self.moved = moved
        self.roots = roots

    def read(self, report: Report, classes: Sequence[str] | None) -> Labels:
        problems = Problems(self.path if self.path.is_dir() else self.path.parent)
        sizes = ImageSizes(problems)
        report.warnings.extend(self.moved)
        splits = {}
        for name, places in self.splits.items():
            files = [file for place in places for file in self._images(place, problems)]
            read = [self._read_image(file, sizes, problems) for file in files]
            splits[name] = [image for image, _ in read if image is not None]
            unlabeled = [f for f, (_, found) in zip(files, read, strict=True) if not found]
            if not files:
                report.errors.append(f"{problems.listed(places)} has no images")
            elif len(unlabeled) == len(files):
                report.errors.append(
                    f"no image of {problems.listed(places)} has a file of labels; the first would "
                    f"be {_labels_of(files[0])}"
                )
            elif unlabeled:
                report.warnings.append(
                    f"{len(unlabeled)} of {len(files)} images have no file of labels and count as "
                    f"images without objects: {problems.listed(unlabeled)}"
                )
            if unused := _labels_without_image(places, files):
                report.warnings.append(
                    f"{len(unused)} files of labels have no image and are not used: "
                    f"{problems.listed(unused)}"
                )
        problems.report(report.errors)
        return Labels(self.classes, splits)

    def _images(self, place: Path, problems: Problems) -> list[Path]:
        if place.is_dir():
            return find_images(place)
        root, files = place.parent, []
        for line in read_lines(place):
            if line := line.strip():
                # Darknet writes paths from the folder above its "data".
                tries = [root / line, root / line.removeprefix("data/"), root.parent / line]
                found = next((p for p in tries if is_there(p)), None)
                files.append(found or _near(root, line) or tries[0])
        # Lists have ".." and "./", which would not be relative to a common folder.
        return [Path(os.path.abspath(file)) for file in files]

    def _read_image(
        self, file: Path, sizes: ImageSizes, problems: Problems
    ) -> tuple[LabeledImage | None, bool]:
        """The image, and whether it has a file of labels."""
        size = sizes(file)
        path = Path(_labels_of(file))
        if not path.is_file():
            path = file.with_suffix(".txt")
        try:
            lines = read_lines(path)
        except FileNotFoundError:
            return (None if size is None else LabeledImage(file, *size)), False
        except DatasetError:
            problems.add("files of labels cannot be read", str(path))
            return None, True
        if size is None:
            return None, True
        image = LabeledImage(file, *size)
        for number, line in enumerate(lines, 1):
            if line.strip():
                problem = self._add_object(image, line.split())
                if problem:
                    problems.add(problem, f"{path}:{number}")
        return image, True

    def _add_object(self, image: LabeledImage, row: list[str]) -> str | None:
        """Add the object of a row; None, or what is wrong with the row."""
        try:
            number, *values = map(float, row)
        except ValueError:
            return "rows have something that is not a number"
        if not all(map(math.isfinite, (number, *values))):
            return "rows have numbers that are not finite"
        if number != int(number) or not 0 <= number < len(self.classes):
            return f"rows have a class that is not a number from 0 to {len(self.classes) - 1}"
        if self.keypoints:
            values = values[:4]
        polygon = len(values) >= 6 and len(values) % 2 == 0
        if not polygon and len(values) != 4:
            return (
                "rows have neither 5 columns (class, center x, center y, width, height) nor those "
                "of a polygon (class, x, y, x, y, ..., three points or more)"
            )
        if not all(-SLACK <= v <= 1 + SLACK for v in values):
            return "rows have coordinates outside 0 to 1, in units of the image's size"
        w, h = image.width, image.height
        if polygon:
            points = [v * (h if i % 2 else w) for i, v in enumerate(values)]
            image.add(int(number), polygon_box([points]), [points])
        else:
            x, y, width, height = values
            corners = [(x - width / 2) * w, (y - height / 2) * h]
            corners += [(x + width / 2) * w, (y + height / 2) * h]
            # Six digits are usual. A box that is of whole pixels as far as these can tell, is.
            whole = [round(v) for v in corners]
            if all(
                abs(v - r) <= PRECISION * max(w, h) for v, r in zip(corners, whole, strict=True)
            ):
                corners = list(map(float, whole))
            x1, y1, x2, y2 = corners
            image.add(int(number), (x1, y1, x2 - x1, y2 - y1), [])
        return None


def _labels_of(image: Path) -> str:
    """The file of labels of an image: as Ultralytics, in ``labels`` in place of ``images``."""
    head, found, tail = str(image.with_suffix(".txt")).rpartition(f"{os.sep}images{os.sep}")
    return f"{head}{os.sep}labels{os.sep}{tail}" if found else tail


def _labels_without_image(places: Iterable[Path], images: Iterable[Path]) -> list[Path]:
    """Files in the folders of labels that belong to none of the images in folders of images."""
    used = {_labels_of(image) for image in images}
    found = []
    for place in places:
        folder = Path(_labels_of(place / "x")).parent
        if place.is_dir() and folder != place:  # else it may have any text files
            found += [p for p in find_files(folder, (".txt",)) if p.name not in CLASS_LISTS]
    return [path for path in found if str(path) not in used]


def _from_yaml(
    file: Path, data: Any
) -> tuple[list[Path], list[str], dict[str, list[Path]], bool, list[str]]:
    """Of a description's content, the arguments of :class:`YoloData`."""
    if not isinstance(data, dict) or not isinstance(data.get("names"), list | dict):
        raise DatasetError(f'{file} describes no YOLO dataset: it has no list of class "names"')
    names = data["names"]
    if isinstance(names, dict):
        numbers = [str(i) for i in range(len(names))]
        if set(names) != set(numbers):
            raise DatasetError(
                f'{file}: the numbers of the classes in "names" must be 0 to {len(names) - 1}, got '
                f"{some(sorted(names, key=str))}"
            )
        names = [names[number] for number in numbers]
    if not all(isinstance(name, str) for name in names):
        raise DatasetError(f'{file}: "names" must be a list of texts, one for each class')
    if data.get("nc", str(len(names))) != str(len(names)):
        raise DatasetError(f'{file}: "nc" is {data["nc"]}, and "names" has {len(names)} classes')
    splits: dict[str, list[Path]] = {}
    moved = []
    for key in ("train", "val", "valid", "test"):
        given = data.get(key)
        if not given or given in ("~", "null"):
            continue
        given = given if isinstance(given, list) else [given]
        if not all(isinstance(place, str) for place in given):
            raise DatasetError(f"{file}: {key!r} must be a path, or a list of paths")
        tries = [_place(file, data, place) for place in given]
        places = [found for found in tries if isinstance(found, Path)]
        if len(places) < len(tries):
            near = [
                found if isinstance(found, Path) else _near(file.parent, value)
                for found, value in zip(tries, given, strict=True)
            ]
            places = [place for place in near if place is not None]
            taken = [place for others in splits.values() for place in others]
            if len(places) == len(tries) and not set(places) & set(taken):
                moved.append(
                    f"{file} gives {some(given, LONGEST_NAME)} for {key!r}, which is not there: "
                    f"{some(places, LONGEST_NAME)} is taken in its place"
                )
            elif key == "test":  # which exports name, and may not have
                continue
            else:
                missing = some((f for f in tries if isinstance(f, str)), LONGEST_NAME)
                raise DatasetError(
                    f"{file}: there is no {missing}, which it gives for {key!r}. Correct the path "
                    'there (it is relative to "path", or else to the folder of this file), or '
                    "delete the line to do without"
                )
        splits[SPLIT_NAMES[key]] = places
    if not splits:
        raise DatasetError(f'{file} names no images: it has no "train", "val" or "test"')
    return _roots(file, splits), names, splits, "kpt_shape" in data, moved


def _roots(description: Path, splits: dict[str, list[Path]]) -> list[Path]:
    roots = [description]
    for place in (place for places in splits.values() for place in places):
        labels = Path(_labels_of(place / "x")).parent
        # The images of a list may be anywhere; nearly always they are near it.
        roots += [place, labels] if place.is_dir() else [place.parent]
    return list(dict.fromkeys(root for root in roots if root.exists()))


def _place(file: Path, data: dict, given: str) -> Path | str:
    """Where a split is, or where it was looked for first."""
    roots = [file.parent]
    if isinstance(data.get("path"), str):
        roots.insert(0, file.parent / data["path"])
    tries = [root / given for root in roots]
    if given.startswith("../"):  # Roboflow's, which is wrong by a folder
        tries.append(file.parent / given[3:])
    for place in tries:
        if is_there(place):
            return Path(os.path.abspath(place))
    return str(tries[0])


def _near(folder: Path, given: str) -> Path | None:
    """Where a file or folder of another machine is in ``folder``: the most of its path that is
    there. Only absolute paths are looked for, and no folder "images", which may be any split's."""
    kinds = (PurePosixPath, PureWindowsPath)
    path = next((p for kind in kinds if (p := kind(given)).is_absolute()), None)
    if path is None:
        return None
    tails = [folder.joinpath(*path.parts[i:]) for i in range(1, len(path.parts))]
    found = next((tail for tail in tails if is_there(tail)), None)
    if found is None or (found.parent == folder and found.name == "images"):
        return None
    return Path(os.path.abspath(found))


def _from_darknet(file: Path) -> tuple[list[Path], list[str], dict[str, list[Path]], bool]:
    """``obj.data`` of Darknet, as CVAT exports it."""
    pairs = (line.partition("=") for line in read_lines(file))
    values = {key.strip(): value.strip() for key, _, value in pairs}

    def find(key: str) -> Path | None:
        given = values.get(key, "")
        tries = [file.parent / given, file.parent / given.removeprefix("data/")]
        return next((Path(os.path.abspath(p)) for p in tries if given and is_there(p)), None)

    names = find("names")
    if names is None:
        raise DatasetError(f"{file}: there is no file of class names {values.get('names', '')!r}")
    lists = {SPLIT_NAMES[k]: [p] for k in ("train", "valid", "test") if (p := find(k))}
    if not lists:
        raise DatasetError(f"{file} names no list of images (train, valid or test) that exists")
    return [file.parent], _read_names(names), lists, False


def _from_folders(path: Path) -> "YoloData | None":
    lists = [path / name for name in CLASS_LISTS if (path / name).is_file()]
    splits: dict[str, list[Path]] = {}
    for images in (path / "images", *sorted(path.glob("*/images"))):
        labels = images.parent / "labels"
        if not images.is_dir() or not labels.is_dir():
            continue
        inner = {split_name(p.name): [p] for p in sorted(images.iterdir()) if p.is_dir()}
        name = split_name(images.parent.name) if images.parent != path else ""
        if set(inner) - {""}:
            splits.update({k: v for k, v in inner.items() if k})
        else:
            splits[name] = [images]
    if not splits or not _has_rows(splits):
        return None
    if not lists:
        raise DatasetError(
            f"{path} has images and YOLO labels, but no names of the classes: add a data.yaml "
            "(names, train, val), or classes.txt with a name on each line"
        )
    found = {k: [Path(os.path.abspath(p)) for p in v] for k, v in splits.items()}
    return YoloData(path, _roots(lists[0], found), _read_names(lists[0]), found, False)


def _has_rows(splits: dict[str, list[Path]]) -> bool:
    """Whether the folders of labels have text files."""
    labels: Iterable[Path] = (Path(_labels_of(p / "x")).parent for v in splits.values() for p in v)
    return any(next(folder.rglob("*.txt"), None) is not None for folder in labels)


def _read_names(file: Path) -> list[str]:
    return [line.strip() for line in read_lines(file) if line.strip()]
