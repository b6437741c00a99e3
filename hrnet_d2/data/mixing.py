"""Samples made of several images: mosaic and copy-paste.

Both take their random numbers from NumPy, which the loader seeds by the image's position.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from .cropping import clip_polygon
from .masks import rasterize
from .transforms import OpenCVResizeTransform

__all__ = ["Mixing", "Sample", "copy_paste", "mosaic"]

FILL = 114  # gray of MMDetection's mosaic
CENTER = (0.25, 0.75)  # where the four images of a mosaic meet, in units of its size
LEAST_VISIBLE = 0.2  # objects of which less is left, by area, are dropped
PASTE_SCALE = (0.5, 1.5)


@dataclass
class Sample:
    """An image as it is read, and what goes with it."""

    image: np.ndarray
    """(H, W, C) uint8."""
    annotations: list[dict[str, Any]]
    """In Detectron2's format, with boxes x1, y1, x2, y2 in pixels of this image."""
    sem_seg: np.ndarray | None
    """(H, W) labels."""


class Mixing:
    """Makes a mosaic, pastes objects, or neither, at random."""

    def __init__(
        self, *, mosaic: float, copy_paste: float, max_objects: int, masks: bool, ignore: int
    ):
        """
        Args:
            mosaic, copy_paste: probabilities.
            max_objects: at most so many objects are pasted.
            masks: the model predicts masks, and needs what is left of those that are covered.
            ignore: label of the semantic map where there is no image.
        """
        self.mosaic = mosaic
        self.copy_paste = copy_paste
        self.max_objects = max_objects
        self.masks = masks
        self.ignore = ignore

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Mixing | None":
        """None if ``cfg`` has neither."""
        if not (cfg.INPUT.MOSAIC.PROB > 0 or cfg.INPUT.COPY_PASTE.PROB > 0):
            return None
        return cls(
            mosaic=cfg.INPUT.MOSAIC.PROB,
            copy_paste=cfg.INPUT.COPY_PASTE.PROB,
            max_objects=cfg.INPUT.COPY_PASTE.MAX_OBJECTS,
            masks=cfg.MODEL.MASK_ON,
            ignore=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )

    def __call__(self, sample: Sample, another: Callable[[], Sample]) -> Sample:
        """
        Args:
            sample: an image.
            another: returns a random image.
        """
        if np.random.rand() < self.mosaic:
            sample = mosaic([sample, another(), another(), another()], self.ignore)
        if np.random.rand() < self.copy_paste:
            source = another()
            sample = copy_paste(
                sample, source, self.max_objects, masks=self.masks, ignore=self.ignore
            )
        return sample


def mosaic(samples: list[Sample], ignore: int = 255) -> Sample:
    """Four images around a random point, on a canvas of the size of the first.

    The geometry is that of MMDetection's ``Mosaic``, at half its size: each image is scaled to fit
    half the canvas, touches the point with a corner, and is cropped at the canvas' border.

    Args:
        samples: four images, from the upper left by rows.
        ignore: label of the semantic map where there is no image.
    """
    height, width = samples[0].image.shape[:2]
    channels = samples[0].image.shape[2:]
    image = np.full((height, width, *channels), FILL, dtype=np.uint8)
    maps = any(sample.sem_seg is not None for sample in samples)
    sem_seg = np.full((height, width), ignore, dtype=np.uint8) if maps else None
    x, y = (int(side * np.random.uniform(*CENTER)) for side in (width, height))
    annotations = []
    for i, sample in enumerate(samples):
        h, w = sample.image.shape[:2]
        scale = min(height / h, width / w) / 2
        size = max(1, round(h * scale)), max(1, round(w * scale))
        left = x - size[1] if i % 2 == 0 else x
        top = y - size[0] if i < 2 else y
        place = _Place(OpenCVResizeTransform(h, w, *size), left, top, height, width)
        place.paste(sample, image, sem_seg)
        annotations += place.annotations(sample.annotations)
    return Sample(image, annotations, sem_seg)


def copy_paste(
    sample: Sample, source: Sample, max_objects: int, *, masks: bool, ignore: int = 255
) -> Sample:
    """Paste random objects of one image into another (Ghiasi et al., "Simple Copy-Paste", 2021).

    The other image is scaled by a random factor and moved by a random distance first. Objects of
    which too little stays visible are dropped; the masks and boxes of the others lose what is
    covered, if the model learns masks.

    Args:
        sample: the image to paste into; it is not modified.
        source: the image to take objects from.
        max_objects: at most so many, at least one if there is one.
        masks: the model learns masks.
        ignore: label of the semantic map for pasted pixels of an image without a map.
    """
    if not source.annotations:
        return sample
    height, width = sample.image.shape[:2]
    h, w = source.image.shape[:2]
    scale = min(height / h, width / w) * np.random.uniform(*PASTE_SCALE)
    size = max(1, round(h * scale)), max(1, round(w * scale))
    # Anywhere between the borders, or with the canvas anywhere in the larger image.
    left, top = (
        np.random.randint(min(room, 0), max(room, 0) + 1)
        for room in (width - size[1], height - size[0])
    )
    place = _Place(OpenCVResizeTransform(h, w, *size), left, top, height, width)
    count = np.random.randint(1, min(max_objects, len(source.annotations)) + 1)
    chosen = np.random.permutation(len(source.annotations))[:count]
    pasted = place.annotations([source.annotations[i] for i in sorted(chosen)])
    bitmaps = [bitmap_of(annotation, height, width) for annotation in pasted]
    if not any(bitmap.any() for bitmap in bitmaps):
        return sample
    covered = np.any(bitmaps, axis=0)
    moved = np.zeros_like(sample.image)
    labels = np.full((height, width), ignore, np.uint8) if sample.sem_seg is not None else None
    place.paste(source, moved, labels)
    sem_seg = None
    if sample.sem_seg is not None and labels is not None:
        sem_seg = np.where(covered, labels, sample.sem_seg)
    left_over = []
    for annotation in sample.annotations:
        bitmap = bitmap_of(annotation, height, width)
        visible = bitmap & ~covered
        if visible.sum() < LEAST_VISIBLE * bitmap.sum():
            continue
        if masks and visible.sum() < bitmap.sum():
            annotation = {**annotation, "segmentation": visible.astype(np.uint8)}
            annotation["bbox"] = _box_around(visible)
        left_over.append(annotation)
    image = np.where(covered[..., None], moved, sample.image)
    return Sample(image, left_over + pasted, sem_seg)


def bitmap_of(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """(height, width) bool: the object's segmentation, or its box if it has none."""
    segmentation = annotation.get("segmentation")
    if segmentation is not None and len(segmentation):
        return rasterize(segmentation, height, width).astype(bool)
    x1, y1, x2, y2 = annotation["bbox"]
    bitmap = np.zeros((height, width), dtype=bool)
    rows = slice(max(0, int(y1)), max(0, int(np.ceil(y2))))
    bitmap[rows, max(0, int(x1)) : max(0, int(np.ceil(x2)))] = True
    return bitmap


def _box_around(bitmap: np.ndarray) -> list[float]:
    x, y = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (0, 1))
    return [float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)]


class _Place:
    """Where a resized image is on a canvas."""

    def __init__(self, resize: OpenCVResizeTransform, left: int, top: int, height: int, width: int):
        self.resize = resize
        self.left, self.top = left, top
        self.height, self.width = height, width
        # What is on the canvas, in its pixels: x1, y1, x2, y2.
        self.window = (
            min(max(left, 0), width),
            min(max(top, 0), height),
            max(min(left + resize.new_w, width), 0),
            max(min(top + resize.new_h, height), 0),
        )

    def paste(self, sample: Sample, image: np.ndarray, sem_seg: np.ndarray | None) -> None:
        """Write the image, and its semantic map, on the canvas."""
        x1, y1, x2, y2 = self.window
        here = np.s_[y1:y2, x1:x2]
        there = np.s_[y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left]
        image[here] = self.resize.apply_image(sample.image)[there]
        if sem_seg is not None and sample.sem_seg is not None:
            sem_seg[here] = self.resize.apply_segmentation(sample.sem_seg)[there]

    def annotations(self, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Objects on the canvas, as far as they are on it."""
        moved = (self._move(annotation) for annotation in annotations)
        return [annotation for annotation in moved if annotation is not None]

    def _move(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        x1, y1, x2, y2 = self._points(np.reshape(annotation["bbox"], (2, 2))).reshape(-1)
        wx1, wy1, wx2, wy2 = self.window
        box = max(x1, wx1), max(y1, wy1), min(x2, wx2), min(y2, wy2)
        sides = max(box[2] - box[0], 0.0), max(box[3] - box[1], 0.0)
        if sides[0] * sides[1] < LEAST_VISIBLE * (x2 - x1) * (y2 - y1) or not all(sides):
            return None
        moved = {**annotation, "bbox": [float(v) for v in box]}
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list) and segmentation:
            parts = [
                clip_polygon(self._points(np.reshape(polygon, (-1, 2))), self.window)
                for polygon in segmentation
            ]
            moved["segmentation"] = [p.reshape(-1).tolist() for p in parts if len(p) >= 3]
            if not moved["segmentation"]:
                return None
        elif segmentation is not None and len(segmentation):
            moved["segmentation"] = self._bitmap(segmentation)
        return moved

    def _points(self, points: np.ndarray) -> np.ndarray:
        return self.resize.apply_coords(np.asarray(points, dtype=np.float64)) + (
            self.left,
            self.top,
        )

    def _bitmap(self, segmentation: Any) -> np.ndarray:
        bitmap = rasterize(segmentation, self.resize.h, self.resize.w)
        canvas = np.zeros((self.height, self.width), dtype=np.uint8)
        x1, y1, x2, y2 = self.window
        part = np.s_[y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left]
        canvas[y1:y2, x1:x2] = self.resize.apply_segmentation(bitmap)[part]
        return canvas
