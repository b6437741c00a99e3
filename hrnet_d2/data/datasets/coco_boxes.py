"""The schema of COCO annotations, continued: boxes and areas."""

import itertools
from typing import Any

import numpy as np

from .report import Report, entry_id, some

__all__ = ["check_boxes", "is_number"]

MAX_COORDINATE = 1e7  # of a box, in pixels
LEAST_FILL = 0.01  # of a box that most objects cover

_ABSENT = object()


def check_boxes(
    annotations: list[dict], sizes: dict[int, tuple[int, int]], report: Report
) -> dict[str, int]:
    """Check boxes, and areas, which are repaired in place.

    Args:
        annotations: with "iscrowd" 0 or 1.
        sizes: height and width of the images, by id.
        report: takes the problems.

    Returns:
        Numbers of annotations: "crowds", "small" (boxes less than a pixel wide or high),
        "outside" (boxes outside their image) and "usable" (the others).
    """
    boxed, boxes = _sound_boxes(annotations, report)
    _check_areas(boxed, report)
    _compare_areas(boxed, boxes, report)
    images = [a.get("image_id") for a in boxed]
    if not set(map(type, images)) <= {int} or not sizes.keys() >= set(images):
        known = [i for i, image in enumerate(images) if type(image) is int and image in sizes]
        boxed, boxes = [boxed[i] for i in known], boxes[known]
    return _compare_with_images(boxed, boxes, sizes, report)


def _sound_boxes(annotations: list[dict], report: Report) -> tuple[list[dict], np.ndarray]:
    """The annotations whose box is sound, and these boxes, (N, 4)."""
    boxed = [a for a in annotations if "bbox" in a]
    boxes = [a["bbox"] for a in boxed]
    plain = set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}
    if not plain or not set(map(type, itertools.chain.from_iterable(boxes))) <= {int, float}:
        plain = False
    if plain:
        try:
            numbers = itertools.chain.from_iterable(boxes)
            array = np.fromiter(numbers, np.float64, count=4 * len(boxes)).reshape(-1, 4)
            if (np.abs(array) < MAX_COORDINATE).all():
                return boxed, array
        except OverflowError:
            pass
    odd = [a for a in boxed if not _is_box(a["bbox"])]
    far = [a for a in boxed if _is_box(a["bbox"]) and not _is_box(a["bbox"], MAX_COORDINATE)]
    if odd:
        report.errors.append(
            "boxes that are not four finite numbers (x, y, width, height): ids "
            f"{some(entry_id(a) for a in odd)}"
        )
    if far:
        report.errors.append(
            f"boxes with numbers beyond {MAX_COORDINATE:.0e} pixels: ids "
            f"{some(entry_id(a) for a in far)}"
        )
    boxed = [a for a in boxed if _is_box(a["bbox"], MAX_COORDINATE)]
    return boxed, np.array([a["bbox"] for a in boxed], dtype=np.float64).reshape(-1, 4)


def _compare_with_images(
    annotations: list[dict],
    boxes: np.ndarray,
    sizes: dict[int, tuple[int, int]],
    report: Report,
) -> dict[str, int]:
    shapes = itertools.chain.from_iterable(sizes[a["image_id"]] for a in annotations)
    height, width = np.fromiter(shapes, np.float64, count=2 * len(annotations)).reshape(-1, 2).T
    x, y, w, h = boxes.T
    crowd = np.fromiter((a["iscrowd"] == 1 for a in annotations), bool, count=len(annotations))
    if len(annotations) >= 4 and ((boxes >= 0) & (boxes <= 1)).all():
        report.errors.append(
            "all numbers of all boxes are from 0 to 1: they seem to be fractions of the image, and "
            "COCO's are pixels. Multiply x and width by the image's width, y and height by its "
            "height"
        )
    small = (w < 1) | (h < 1)
    outside = ~small & ((x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0))
    total = len(annotations)
    for chosen, what in (
        (small, "are less than a pixel wide or high"),
        (outside, "miss their image"),
    ):
        if chosen.any():
            ids = [entry_id(annotations[i]) for i in np.flatnonzero(chosen)]
            report.warnings.append(
                f"{len(ids)} of {total} boxes {what} and are left out of training (annotations "
                f"{some(ids)})"
            )
    leaving = (x + w > width + 2) | (y + h > height + 2)
    if 2 * leaving.sum() > total:
        corners = (w > x) & (h > y) & (w <= width + 2) & (h <= height + 2)
        text = f"{leaving.sum()} of {total} boxes, most of all, leave their image"
        if total >= 4 and corners.mean() > 0.95:
            report.errors.append(
                f"{text}, and all fit as corners: they seem to be written as x1, y1, x2, y2, and "
                "COCO's are x, y, width, height. Convert them (width = x2 - x1, height = y2 - y1); "
                "if they are right, clip them to their image"
            )
        else:
            report.warnings.append(
                f"{text}: check that they are x, y, width, height in pixels of the image, and not "
                "x1, y1, x2, y2"
            )
    usable = ~small & ~outside & ~crowd
    return {
        "crowds": int(crowd.sum()),
        "small": int(small.sum()),
        "outside": int(outside.sum()),
        "usable": int(usable.sum()),
    }


def _check_areas(annotations: list[dict], report: Report) -> None:
    """Areas that are missing or no areas become those of the boxes."""
    values = [a.get("area", _ABSENT) for a in annotations]
    if set(map(type, values)) <= {int, float}:
        try:
            array = np.array(values, dtype=np.float64)
            if ((array >= 0) & np.isfinite(array)).all():
                return
        except OverflowError:
            pass
    absent: list = []
    odd: list = []
    for annotation, value in zip(annotations, values, strict=True):
        if not is_number(value) or value < 0:
            _, _, w, h = annotation["bbox"]
            annotation["area"] = max(w, 0) * max(h, 0)
            (absent if value is _ABSENT or value is None else odd).append(entry_id(annotation))
    if absent:
        report.repairs.append(f"{len(absent)} annotations without area (the box's)")
    if odd:
        report.repairs.append(f"{len(odd)} areas that are no areas (the box's; ids {some(odd)})")
        report.warnings.append(
            f'{len(odd)} annotations have an "area" that is not a number of at least 0 (ids '
            f"{some(odd)}): the area of the box is used"
        )


def _compare_areas(annotations: list[dict], boxes: np.ndarray, report: Report) -> None:
    """Areas that their boxes rule out become those of the boxes.

    COCO's evaluation sorts objects into small, medium and large ones by "area", which is that of
    the mask, or of the box if there is none.
    """
    areas = np.array([a["area"] for a in annotations], dtype=np.float64)
    width, height = boxes[:, 2], boxes[:, 3]
    sound = (width >= 1) & (height >= 1)
    of_boxes = width * height
    wrong = np.flatnonzero(sound & ((areas == 0) | (areas > 2 * of_boxes + 4)))
    for i in wrong:
        annotations[i]["area"] = float(of_boxes[i])
    if len(wrong):
        ids = some(entry_id(annotations[i]) for i in wrong)
        report.repairs.append(f"{len(wrong)} areas that do not fit their box (the box's)")
        report.warnings.append(
            f'{len(wrong)} of {len(annotations)} annotations have an "area" of 0, or of more than '
            f"twice their box (ids {ids}): the area of the box is used, since the evaluation of "
            "small, medium and large objects depends on it"
        )
    rest = sound & (areas > 0)
    rest[wrong] = False
    if rest.any() and np.median(areas[rest] / of_boxes[rest]) < LEAST_FILL:
        report.warnings.append(
            f'most objects have an "area" of less than {LEAST_FILL:.0%} of their box: it should be '
            "in square pixels of the image. The evaluation of small, medium and large objects "
            "depends on it"
        )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are not."""
    if type(value) is int:
        return abs(value) < 1 << 1000
    return type(value) is float and bool(np.isfinite(value))


def _is_box(value: Any, limit: float = np.inf) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) in (int, float) and abs(v) < limit for v in value)
    )
