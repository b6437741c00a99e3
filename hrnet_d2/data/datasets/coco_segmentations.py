"""The schema of COCO annotations, continued: segmentations."""

import itertools
from collections import defaultdict

import numpy as np

from hrnet_d2.data.segmentations import (
    SegmentationError,
    clean_segmentation,
    is_plain_polygon,
    valid_rle_strings,
)

from .report import Report, some

_ABSENT = object()

__all__ = ["check_segmentations_of"]


def check_segmentations_of(
    annotations: list[dict],
    sizes: dict[int, tuple[int, int]],
    report: Report,
    *,
    masks: bool,
) -> None:
    """Check the segmentations of annotations, and repair in place what has only one meaning.

    Args:
        annotations: with a known "image_id".
        sizes: height and width of the images, by id.
        report: takes the problems.
        masks: malformed segmentations are errors; otherwise they are removed, with a warning.
    """
    malformed: dict[str, list[dict]] = defaultdict(list)
    repaired: dict[str, list[dict]] = defaultdict(list)
    strings: list[tuple[str, int]] = []
    compressed: list[dict] = []

    def later(counts: str, pixels: int) -> None:
        strings.append((counts, pixels))
        compressed.append(annotation)

    for annotation in annotations:
        value = annotation.get("segmentation", _ABSENT)
        if value is _ABSENT:
            continue
        if type(value) is list and value:
            for polygon in value:
                if not is_plain_polygon(polygon):
                    break
            else:
                continue
        try:
            cleaned, note = clean_segmentation(value, *sizes[annotation["image_id"]], later)
        except SegmentationError as error:
            malformed[str(error)].append(annotation)
            continue
        if cleaned is not value:
            annotation["segmentation"] = cleaned
        if note is not None:
            repaired[note].append(annotation)
        if not cleaned:
            del annotation["segmentation"]
            if note is None and value is not None:
                continue  # an empty list is COCO's way to have none
            repaired[note or "segmentations that are null"] += [] if note else [annotation]
    if strings:
        counts, pixels = zip(*strings, strict=True)
        valid = valid_rle_strings(counts, pixels)
        malformed["a compressed run-length encoding that does not cover its image"] += [
            a for a, good in zip(compressed, valid, strict=True) if not good
        ]

    if masks:
        _compare_with_boxes(annotations, report)
    for what, found in repaired.items():
        if found:
            report.repairs.append(
                f"{len(found)} segmentations: {what} (ids {some(a.get('id') for a in found)})"
            )
    for what, found in malformed.items():
        if not found:
            continue
        ids = some(a.get("id") for a in found)
        if masks:
            report.errors.append(
                f"{len(found)} segmentations are malformed ({what}): ids {ids}. Correct them, or "
                "train a box model"
            )
            continue
        for annotation in found:
            del annotation["segmentation"]
        report.repairs.append(f"{len(found)} malformed segmentations (removed): {what}")
        report.warnings.append(
            f"{len(found)} segmentations are malformed ({what}) and are not used: ids {ids}"
        )


def _compare_with_boxes(annotations: list[dict], report: Report) -> None:
    """Warn of polygons that lie beside their box: another unit, another image or another object.

    Only the polygons that begin outside the box are looked at as a whole.
    """
    beside = []
    for annotation in annotations:
        polygons, box = annotation.get("segmentation"), annotation.get("bbox")
        if type(polygons) is not list or not polygons or type(box) is not list or len(box) != 4:
            continue
        try:
            if _begins_outside(polygons, box) and _lies_beside(polygons, box):
                beside.append(annotation.get("id"))
        except (TypeError, ValueError, OverflowError):
            continue  # no numbers, which is reported elsewhere
    if beside:
        report.warnings.append(
            f"{len(beside)} of {len(annotations)} segmentations do not touch their box (ids "
            f"{some(beside)}): check that both are of the same object, in pixels of the image"
        )


def _begins_outside(polygons: list, box: list) -> bool:
    x, y, w, h = box
    for polygon in polygons:
        if len(polygon) < 2 or (x <= polygon[0] <= x + w and y <= polygon[1] <= y + h):
            return False
    return True


def _lies_beside(polygons: list, box: list) -> bool:
    numbers = np.array(list(itertools.chain.from_iterable(polygons)), dtype=np.float64)
    xs, ys = numbers.reshape(-1, 2).T
    x, y, w, h = box
    inside = xs.max() >= x and xs.min() <= x + w and ys.max() >= y and ys.min() <= y + h
    return not inside
