"""Where COCO files and their images are in a folder."""

import contextlib
import json
import logging
import re
from pathlib import Path
from typing import Any

from hrnet_d2.data.cache import cached_json

from .coco_check import parse
from .conversion import Split, split_name
from .report import DatasetError, Report, some

__all__ = ["find_coco", "images_of"]

logger = logging.getLogger(__name__)

# Enough of a file to tell that it is an object with one of COCO's tables.
HEAD = 1 << 16
DIGITS = "0123456789"
TABLES = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
NOT_TRAINED = re.compile(r"captions|keypoints|panoptic|stuff|image_info|results", re.IGNORECASE)


def find_coco(path: Path) -> dict[str, Split] | None:
    """COCO files and folders of images by split, in a folder; None if there is none.

    Known are a file in the folder of each split (Roboflow: ``train/_annotations.coco.json``),
    files that are named after the splits beside the images or in ``annotations`` (COCO:
    ``annotations/instances_train2017.json`` and ``train2017``), and a single file.

    Raises:
        DatasetError: if several files are of the same split, or images are not found.
    """
    found: dict[str, list[Path]] = {}
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and split_name(p.name)):
        files = _files(folder) or _files(folder / "annotations")
        if files:
            found.setdefault(split_name(folder.name), []).extend(files)
    if not found:
        for file in _files(path) or _files(path / "annotations"):
            words = re.findall(r"[a-z]+", file.stem.lower())
            split = next((split_name(word) for word in words if split_name(word)), "")
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if len(files) > 1:
            raise DatasetError(
                f"{path} has several annotation files for {split or 'one set'}: {some(files)}. "
                "Give the file to use and its folder of images (JSON IMAGES)"
            )
    if set(found) - {""}:
        found.pop("", None)
    return {split: (_cleaned(f), images_of(f)) for split, (f,) in found.items()} or None


def images_of(file: Path) -> Path:
    """The folder that the file names of a COCO file start from.

    Raises:
        DatasetError: if the file is not COCO's, or its first image is in none of the folders near
            it.
    """
    name = _first_image(file)
    folder = file.parent
    words = [w for w in re.findall(r"[a-z]+\d*", file.stem.lower()) if split_name(w.rstrip(DIGITS))]
    near = [folder, folder / "images", folder / file.stem, folder / f"{file.stem}_images"]
    near += [folder.parent / "images", folder.parent]
    for word in words:
        near += [folder / word, folder / "images" / word]
        near += [folder.parent / word, folder.parent / "images" / word]
    for place in near:
        try:
            if isinstance(name, str) and (place / name).is_file():
                return place
        except (OSError, ValueError):  # a name that no file can have
            break
    raise DatasetError(
        f"The images of {file} are not found: the first, {some([repr(name)])}, is in none of "
        f"{some(dict.fromkeys(p for p in near if p.is_dir()))}. Give their folder (JSON IMAGES)"
    )


def _first_image(file: Path) -> Any:
    with file.open("rb") as opened:
        found = FILE_NAME.search(opened.read(HEAD))
    if found:
        with contextlib.suppress(ValueError):
            return json.loads(found[1])
    data = parse(file, Report(file))
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list) or not images:
        raise DatasetError(f'{file} is no COCO annotation file with images: it has no "images"')
    return images[0].get("file_name") if isinstance(images[0], dict) else None


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return [f for f in files if not NOT_TRAINED.search(f.stem) and _looks_like_coco(f)]


def _looks_like_coco(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    return head.lstrip()[:1] == b"{" and TABLES.search(head) is not None


def _cleaned(file: Path) -> Path:
    """Without the class that Roboflow adds: the name of the project, which has no object and is
    the "supercategory" of all others."""
    if file.name != "_annotations.coco.json":
        return file
    data = parse(file, Report(file))
    try:
        placeholder = _placeholder(data)
    except (AttributeError, KeyError, TypeError):
        return file  # malformed, which the checks report
    if placeholder is None:
        return file
    data["categories"] = [c for c in data["categories"] if c is not placeholder]
    logger.info(
        "%s: the class %r is left out: it has no object, and is Roboflow's name of the project",
        *(file, placeholder["name"]),
    )
    return cached_json(data, file.stem.strip("_."))


def _placeholder(data: Any) -> Any:
    categories = data["categories"]
    for category in categories:
        others = [c for c in categories if c is not category]
        if (
            category["id"] == 0
            and category.get("supercategory") == "none"
            and others
            and all(c.get("supercategory") == category["name"] for c in others)
            and all(a["category_id"] != 0 for a in data["annotations"])
        ):
            return category
    return None
