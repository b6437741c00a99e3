"""Segmentations of annotated objects: whether they exist, and their bitmaps."""

from collections.abc import Iterable

import numpy as np
import pycocotools.mask as mask_util

__all__ = ["check_segmentations", "rasterize"]


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
        ValueError: if a polygon has fewer than three points, or an encoding another size.
    """
    if isinstance(segmentation, np.ndarray):
        bitmap = segmentation.astype(bool).astype(np.uint8)
    elif isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        bitmap = mask_util.decode(segmentation)
    else:
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(
                    f"a polygon has {len(polygon)} numbers: it takes x and y of at least three "
                    "points"
                )
        polygons = [np.asarray(p, dtype=np.float64).reshape(-1).tolist() for p in segmentation]
        bitmap = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, height, width)))
    if bitmap.shape != (height, width):
        raise ValueError(
            f"the mask of an object is {bitmap.shape[1]} x {bitmap.shape[0]} pixels (width x "
            f"height), the image {width} x {height}"
        )
    return bitmap
