"""The schema of COCO annotations, continued: segmentations."""

import itertools
from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util

from hrnet_d2.data.segmentations import (
    SegmentationError,
    clean_segmentation,
    is_plain_polygon,
    valid_rle_strings,
)

from .report import Report, some

_ABSENT = object()
_AT_ONCE = 200  # encodings; pycocotools counts those of one call in a byte

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

    if masks and not any(malformed.values()):
        _compare_with_boxes(annotations, report)
        _find_empty_masks(annotations, sizes, report)
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


def _find_empty_masks(
    annotations: list[dict], sizes: dict[int, tuple[int, int]], report: Report
) -> None:
    """Objects whose polygons or encoding, all of them well-formed, cover no pixel."""
    found: list[int] = []
    compressed: list[int] = []
    for i, annotation in enumerate(annotations):
        value = annotation.get("segmentation")
        if not value or annotation.get("iscrowd") == 1:
            continue
        if type(value) is dict:
            if type(value["counts"]) is not list:
                compressed.append(i)
            elif not any(value["counts"][1::2]):  # every other run is of the object
                found.append(i)
            continue
        size = sizes[annotation["image_id"]]
        if _has_area(value[0], *size):
            continue
        if not np.any(mask_util.area(mask_util.frPyObjects(value, *size))):
            found.append(i)
    for start in range(0, len(compressed), _AT_ONCE):
        part = compressed[start : start + _AT_ONCE]
        areas = mask_util.area([annotations[i]["segmentation"] for i in part])
        found += [i for i, area in zip(part, areas, strict=True) if not area]
    empty = [annotations[i] for i in sorted(found)]
    if empty:
        report.without_pixels = empty
        report.warnings.append(
            f"{len(empty)} of {len(annotations)} segmentations cover no pixel (polygons without "
            f"area, or empty encodings) and their objects are left out of training (annotations "
            f"{some(a.get('id') for a in empty)}); no predicted mask can match them in an "
            "evaluation"
        )


def _has_area(polygon: list, height: int, width: int) -> bool:
    """Whether three points that are far apart in the polygon's order, of which one is in the
    image, span more than a pixel."""
    third = len(polygon) // 6 * 2
    x, y = polygon[0], polygon[1]
    x1, y1 = polygon[third], polygon[third + 1]
    x2, y2 = polygon[2 * third], polygon[2 * third + 1]
    inside = 0 <= x < width and 0 <= y < height
    return inside and bool(abs((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) > 4)


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
