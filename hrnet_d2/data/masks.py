"""Segmentations of annotated objects: whether they exist, and their bitmaps."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .segmentations import SegmentationError, check_polygon, check_rle

__all__ = ["check_segmentation", "check_segmentations", "rasterize"]


def check_segmentations(
    annotations: Iterable[tuple[dict, str]], source: str, *, crowds: bool = False
) -> None:
    """Refuse data with objects that have no segmentation, for a model that predicts masks.

    Args:
        annotations: annotations of COCO or of Detectron2's records, each with the words that tell
            where it is (its id, or its image).
        source: where the annotations come from, for the message.
        crowds: check crowd annotations too. Training leaves them out, COCO's evaluation reads
            them.

    Raises:
        ValueError: the number of such objects, the first of them, and the remedy.
    """
    total = missing = 0
    first = ""
    for annotation, where in annotations:
        if annotation.get("iscrowd", 0) and not crowds:
            continue
        total += 1
        segmentation = annotation.get("segmentation")
        if segmentation is None or len(segmentation) == 0:
            missing += 1
            first = first or where
    if missing:
        raise ValueError(
            f"This model predicts masks (MODEL.MASK_ON), and {missing} of {total} objects of "
            f"{source} have no segmentation (the first: {first}). Train a box model (the "
            "faster_rcnn, cascade_rcnn and fcos configs), or give every object a segmentation"
        )


def check_segmentation(segmentation: list | dict | np.ndarray, height: int, width: int) -> None:
    """Check the segmentation of an object of a Detectron2 record before pycocotools reads it.

    Args:
        segmentation: COCO polygons, a COCO run-length encoding, or a bitmap.
        height, width: size of the image file, in pixels.

    Raises:
        ValueError: if it is malformed, or has another size than the image.
    """
    if isinstance(segmentation, dict):
        size = segmentation.get("size", (height, width))
        if tuple(size) != (height, width):
            raise _size_error(size, height, width)
        check_rle(segmentation, height, width)
    elif isinstance(segmentation, np.ndarray):
        if segmentation.shape != (height, width):
            raise _size_error(segmentation.shape, height, width)
    elif not isinstance(segmentation, list | tuple):
        raise SegmentationError("a segmentation is neither a list of polygons nor an encoding")
    else:
        for polygon in segmentation:
            check_polygon(_polygon_array(polygon), height, width)


def rasterize(segmentation: list | dict | np.ndarray, height: int, width: int) -> np.ndarray:
    """The bitmap of an object at the size of its image file, as MMDetection's ``LoadAnnotations``
    computes it.

    Args:
        segmentation: COCO polygons (a list of x, y, x, y, ... in pixels; their union counts), a
            COCO run-length encoding (compressed or not), or a bitmap.
        height, width: size of the image file, in pixels.

    Returns:
        (height, width) uint8, 1 inside.

    Raises:
        ValueError: if the segmentation is malformed, or has another size than the image.
    """
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(bool).astype(np.uint8)
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        return mask_util.decode(segmentation)
    polygons = [_polygon_array(polygon).tolist() for polygon in segmentation]
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, height, width)))


def _polygon_array(polygon: Any) -> np.ndarray:
    try:
        return np.asarray(polygon, dtype=np.float64).reshape(-1)
    except (OverflowError, TypeError, ValueError):
        raise SegmentationError("a polygon is not a list of numbers") from None


def _size_error(size: Any, height: int, width: int) -> SegmentationError:
    shown = f"{size[1]} x {size[0]}" if len(size) == 2 else str(size)
    return SegmentationError(
        f"the mask of an object is {shown} pixels (width x height), the image {width} x {height}"
    )
