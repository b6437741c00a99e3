"""Outlines of masks, for programs that know polygons."""

import cv2
import numpy as np

__all__ = ["outlines"]

TOLERANCE = 0.7  # pixels between a mask's border and its polygon


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons around the parts of a mask, the largest first; holes are lost.

    Args:
        mask: (H, W) uint8, 1 inside.

    Returns:
        Arrays (K, 2) float32 of x, y in pixels, K >= 3, along the outer edges of the pixels.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    # Twice as large, the contour through the centers of the border pixels lies a quarter of a pixel
    # inside the edge, and a part that is one pixel wide still has an area.
    crop = np.pad(crop.repeat(2, 0).repeat(2, 1), 1)
    found, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in sorted(found, key=cv2.contourArea, reverse=True):
        points = cv2.approxPolyDP(contour, 2 * TOLERANCE, True)
        if len(points) < 3:
            points = contour
        if len(points) >= 3:
            polygon = (points[:, 0, :].astype(np.float32) - 0.5) / 2
            polygons.append(polygon + np.array([left, top], np.float32))
    return polygons
