"""Bitmaps of annotated outlines."""

import numpy as np
import pycocotools.mask as mask_util

__all__ = ["rasterize"]


def rasterize(segmentation: list | dict | np.ndarray, height: int, width: int) -> np.ndarray:
    """The bitmap of an object at the size of its image file, as MMDetection's ``LoadAnnotations``.

    Args:
        segmentation: COCO polygons (a list of x, y, x, y, ... in pixels; their union counts), a
            COCO run-length encoding (compressed or not), or a bitmap.
        height, width: of the image file.

    Returns:
        (height, width) uint8, 1 inside.

    Raises:
        ValueError: a polygon of less than three points, or an encoding of another size.
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
                    "points."
                )
        polygons = [np.asarray(p, dtype=np.float64).reshape(-1).tolist() for p in segmentation]
        bitmap = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, height, width)))
    if bitmap.shape != (height, width):
        raise ValueError(
            f"the mask of an object is {bitmap.shape[1]} x {bitmap.shape[0]} pixels (width x "
            f"height), the image {width} x {height}."
        )
    return bitmap
