"""What is in a dataset, and what is wrong with it, for people to look at before training."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hrnet_d2.data.image_header import read_header
from hrnet_d2.data.masks import check_segmentations

from .coco_check import CocoFile, check_same_categories, inspect_coco, nothing_to_learn
from .conversion import Split
from .report import DatasetError, some

__all__ = ["Contents", "Inspection", "inspect"]

# COCO's bounds of the area, in pixels: small, medium, large.
AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
CROWDED = 100  # objects; TEST.DETECTIONS_PER_IMAGE by default


@dataclass
class Contents:
    """Numbers of one split."""

    images: int
    objects: int
    segmented: int
    """Objects with a segmentation."""
    crowds: int
    """Annotations of groups ("iscrowd": 1), which are not trained on."""
    classes: list[tuple[str, int, int]]
    """Name, number of objects, number of images that have some."""
    sizes: dict[str, int]
    """Objects by area: small (below 32 x 32 pixels), medium, large (from 96 x 96 on)."""
    empty: int
    """Images without objects."""
    crowded: list[tuple[str, int]]
    """File and number of objects of images with more than 100, most first."""
    per_image: list[int]
    """Number of objects of each image."""
    image_sizes: list[tuple[int, int]]
    """Width and height of each image."""


@dataclass
class Inspection:
    """All that was found."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    """What must be corrected, by the name of the split or file."""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """What may be intended."""
    contents: dict[str, Contents] = field(default_factory=dict)
    """By split, of those whose annotations are valid."""

    def add(self, kind: str, where: str, text: str) -> None:
        getattr(self, kind).setdefault(where, []).append(text)


def inspect(
    splits: dict[str, Split], *, masks: bool = False, read_images: bool = True
) -> Inspection:
    """Check annotations and images of a dataset, and count what they have.

    Args:
        splits: COCO file and folder of images, by name.
        masks: malformed segmentations are problems.
        read_images: read all image files: whether they are damaged, have the annotated size, and
            are the same as others.
    """
    found = Inspection()
    files: dict[str, CocoFile] = {}
    for name, (path, root) in splits.items():
        try:
            file, report = inspect_coco(path, root, masks=masks)
        except (DatasetError, OSError) as error:
            found.add("problems", name, str(error))
            continue
        for problem in report.errors:
            found.add("problems", name, problem)
        for warning in report.warnings:
            found.add("warnings", name, warning)
        for repair in report.repairs:
            found.add("warnings", name, f"corrected when it is used: {repair}")
        if file is not None:
            files[name] = file
            found.contents[name] = _count(file)
            _check_use(name, file, found, masks)
    first = next(iter(files), None)
    for name in list(files)[1:]:
        try:
            check_same_categories(files[first or ""], files[name])
        except DatasetError as error:
            found.add("problems", name, str(error))
    if read_images:
        _check_images(files, found)
    return found


def _check_use(name: str, file: CocoFile, found: Inspection, masks: bool) -> None:
    """Whether a model can learn from a split, or be evaluated on it."""
    training = name in ("train", "")
    if training and (lacking := nothing_to_learn(file)):
        found.add("problems", name, lacking)
    elif len(file.data["annotations"]) == file.counts["crowds"]:
        found.add("warnings", name, "no objects to evaluate on: every AP will be undefined")
    if masks:
        annotations = ((a, f"annotation id {a['id']}") for a in file.data["annotations"])
        try:
            # Evaluation reads crowds, training leaves them out.
            check_segmentations(annotations, str(file.path), crowds=not training)
        except ValueError as error:
            found.add("problems", name, str(error))


def _count(file: CocoFile) -> Contents:
    images, annotations = file.data["images"], file.data["annotations"]
    objects = [a for a in annotations if not a.get("iscrowd", 0)]
    per_image = Counter(a["image_id"] for a in annotations)
    by_class = Counter(a["category_id"] for a in objects)
    holders = Counter(c for c, _ in {(a["category_id"], a["image_id"]) for a in objects})
    areas = np.array([a["area"] for a in objects], dtype=float)
    names = dict(zip(file.category_ids, file.class_names, strict=True))
    crowded = [(i["file_name"], per_image[i["id"]]) for i in images if per_image[i["id"]] > CROWDED]
    return Contents(
        images=len(images),
        objects=len(objects),
        segmented=sum(bool(a.get("segmentation")) for a in objects),
        crowds=len(annotations) - len(objects),
        classes=[(name, by_class[i], holders[i]) for i, name in names.items()],
        sizes={
            name: int(((areas >= low) & (areas < high)).sum())
            for name, (low, high) in AREAS.items()
        },
        empty=sum(not per_image[i["id"]] for i in images),
        crowded=sorted(crowded, key=lambda entry: -entry[1]),
        per_image=[per_image[i["id"]] for i in images],
        image_sizes=[(i["width"], i["height"]) for i in images],
    )


def _check_images(files: dict[str, CocoFile], found: Inspection) -> None:
    """Damage, sizes, and images that are the same to the byte."""
    holders: dict[str, list[tuple[str, str]]] = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for name, file in files.items():
            images = [i for i in file.data["images"] if i["file_name"] not in file.not_to_read]
            paths = [os.path.join(file.image_root, i["file_name"]) for i in images]
            damaged, other, doubtful = [], [], []
            for image, (digest, size, defect, warning) in zip(
                images, pool.map(_look, paths), strict=True
            ):
                given = (image["width"], image["height"])
                if digest:
                    holders.setdefault(digest, []).append((name, image["file_name"]))
                if defect:
                    damaged.append(f"{image['file_name']} ({defect})")
                elif size is not None and size != given:
                    other.append(
                        f"{image['file_name']} (the file {size[0]} x {size[1]}, annotated "
                        f"{given[0]} x {given[1]})"
                    )
                if warning:
                    doubtful.append(f"{image['file_name']} ({warning})")
            if damaged:
                found.add("problems", name, f"{len(damaged)} damaged images: {some(damaged)}")
            if other:
                found.add(
                    "problems",
                    name,
                    f"{len(other)} images have another size than annotated (width x height): "
                    f"{some(other)}",
                )
            if doubtful:
                found.add("warnings", name, f"{len(doubtful)} doubtful images: {some(doubtful)}")
    _report_copies(holders, found)


def _look(path: str) -> tuple[str, tuple[int, int] | None, str, str]:
    """Digest of the content, size (upright), defect and warning; empty for a missing file."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return "", None, "", ""  # which the annotations' check reports
    if not data:
        return "", None, "the file is empty", ""
    header = read_header(data)
    size = (header.width, header.height)
    if header.orientation in (5, 6, 7, 8):
        size = size[::-1]
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    defect = header.defect or ("" if all(size) else "it is not an image")
    return digest, size if all(size) else None, defect, header.warning


def _report_copies(holders: dict[str, list[tuple[str, str]]], found: Inspection) -> None:
    leaks: dict[tuple[str, ...], list[str]] = {}
    copies: dict[str, list[str]] = {}
    for places in holders.values():
        splits = tuple(dict.fromkeys(name for name, _ in places))
        if len(splits) > 1:
            firsts = [next(file for name, file in places if name == split) for split in splits]
            leaks.setdefault(splits, []).append(" = ".join(firsts))
        for split in splits:
            same = list(dict.fromkeys(file for name, file in places if name == split))
            if len(same) > 1:
                copies.setdefault(split, []).append(" = ".join(same))
    for splits, examples in leaks.items():
        named = " and ".join(split or "all" for split in splits)
        found.add(
            "problems",
            named,
            f"{len(examples)} images are in both {named} (the same content), so that evaluation "
            f"would flatter the model: {some(examples)}",
        )
    for split, examples in copies.items():
        found.add("warnings", split, f"{len(examples)} images are there twice: {some(examples)}")
