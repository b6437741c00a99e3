"""Crops of images with boxes and polygons: Detectron2's, with polygons that are clipped without
another library."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from fvcore.transforms.transform import CropTransform, Transform, TransformList

from .transforms import OpenCVResizeTransform

__all__ = [
    "ClippingCrop",
    "CropAroundObject",
    "FixedSizeCrop",
    "RandomCrop",
    "ScaleJitter",
    "clip_polygon",
]


def clip_polygon(points: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a polygon inside a window (Sutherland and Hodgman, 1974).

    If several pieces of a concave polygon are inside, they stay connected along the window's
    border, which adds no area.

    Args:
        points: (N, 2) corners x, y.
        window: x1, y1, x2, y2.

    Returns:
        (M, 2) corners; none if nothing is inside.
    """
    points = np.asarray(points, dtype=np.float64)
    sides = ((0, window[0], 1), (0, window[2], -1), (1, window[1], 1), (1, window[3], -1))
    for axis, bound, sign in sides:
        if not len(points):
            break
        inside = sign * (points[:, axis] - bound)
        kept: list[np.ndarray] = []
        for i in range(len(points)):
            before, now = inside[i - 1], inside[i]
            if (before < 0) != (now < 0):
                share = before / (before - now)
                crossing = points[i - 1] + share * (points[i] - points[i - 1])
                crossing[axis] = bound  # without rounding
                kept.append(crossing)
            if now >= 0:
                kept.append(points[i])
        points = np.array(kept).reshape(-1, 2)
    return points


class ClippingCrop(CropTransform):
    """Detectron2's ``CropTransform``, whose own clipping of polygons needs the library shapely."""

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """Clip (N, 2) polygons; those without an area inside are left out."""
        window = (self.x0, self.y0, self.x0 + self.w, self.y0 + self.h)
        clipped = (clip_polygon(polygon, window) for polygon in polygons)
        return [self.apply_coords(p) for p in clipped if len(p) >= 3 and _area(p) > 0]


class RandomCrop(T.RandomCrop):
    """Detectron2's ``RandomCrop``; see :class:`ClippingCrop`."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return _clipping(super().get_transform(image))


class CropAroundObject(T.RandomCrop):
    """A crop that has the center of a random object, or a random crop if there is no object.

    Its size is that of Detectron2's ``RandomCrop`` with the same arguments.
    """

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> Transform:
        """
        Args:
            image: (H, W, C).
            boxes: (N, 4) x1, y1, x2, y2 of the objects.
        """
        size = image.shape[:2]
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers >= 0) & (centers <= (size[1], size[0]))).all(axis=1)
        boxes = boxes[inside]
        if not len(boxes):
            return _clipping(super().get_transform(image))
        box = boxes[np.random.randint(len(boxes))]
        instance = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
        crop = detection_utils.gen_crop_transform_with_instance(
            self.get_crop_size(size), size, instance
        )
        return _clipping(crop)


class ScaleJitter(T.ResizeScale):
    """Detectron2's ``ResizeScale``, the first part of large-scale jitter (Ghiasi et al., 2021), by
    OpenCV's resize as MMDetection's."""

    def get_transform(self, image: np.ndarray) -> Transform:
        resize = super().get_transform(image)
        return OpenCVResizeTransform(resize.h, resize.w, max(1, resize.new_h), max(1, resize.new_w))


class FixedSizeCrop(T.FixedSizeCrop):
    """Detectron2's ``FixedSizeCrop``, the second part of large-scale jitter; see
    :class:`ClippingCrop`."""

    def get_transform(self, image: np.ndarray) -> TransformList:
        parts = super().get_transform(image).transforms
        return TransformList([_clipping(part) for part in parts])


def _clipping(transform: Transform) -> Transform:
    if not isinstance(transform, CropTransform):
        return transform
    t = transform
    return ClippingCrop(t.x0, t.y0, t.w, t.h, t.orig_w, t.orig_h)


def _area(points: Sequence | np.ndarray) -> float:
    x, y = np.asarray(points).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
