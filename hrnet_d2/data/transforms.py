"""MMDetection's image geometry as Detectron2 transforms: OpenCV's resize and its size formula."""

import sys
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T
from detectron2.data.transforms import ResizeTransform
from fvcore.transforms.transform import NoOpTransform, Transform

__all__ = ["OpenCVResizeTransform", "ResizeKeepRatio", "ResizeShortestEdge", "keep_ratio_size"]

# Types that nearest-neighbor resizing moves without looking at the values, by size in bytes:
# OpenCV has no signed 64-bit integers and returns 32 bits for them.
_CARRIERS = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}


class OpenCVResizeTransform(Transform):
    """Resize to a given size: images bilinearly (``cv2.INTER_LINEAR``, which does not smooth
    before it shrinks), label maps and masks by ``cv2.INTER_NEAREST``; as ``mmcv.imresize``.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int = cv2.INTER_LINEAR):
        """
        Args:
            h, w: size of the image.
            new_h, new_w: its size after the resize.
            interp: OpenCV's interpolation flag for images.

        Raises:
            ValueError: if a side is less than one pixel.
        """
        super().__init__()
        if min(h, w, new_h, new_w) < 1:
            raise ValueError(
                f"Cannot resize an image of {w} x {h} pixels (width x height) to "
                f"{new_w} x {new_h}: every side must be at least 1"
            )
        self._set_attributes(
            {"h": h, "w": w, "new_h": int(new_h), "new_w": int(new_w), "interp": interp}
        )

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize ``img``, (H, W) or (H, W, C) of a type that OpenCV interpolates (uint8, uint16,
        int16, float32, float64); ``interp`` overrides the transform's flag."""
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"This resize is for images of {self.w} x {self.h} pixels (width x height), "
                f"got one of {img.shape[1]} x {img.shape[0]}"
            )
        if (self.new_h, self.new_w) == (self.h, self.w):
            return img
        resized = cv2.resize(
            img,
            (self.new_w, self.new_h),
            interpolation=self.interp if interp is None else interp,
        )
        # OpenCV drops a single channel.
        return resized.reshape(resized.shape[:2] + img.shape[2:])

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels, (H, W) or (H, W, C) of any type of 1, 2, 4 or 8 bytes."""
        segmentation = np.ascontiguousarray(segmentation)
        carried = segmentation.view(_CARRIERS[segmentation.dtype.itemsize])
        return self.apply_image(carried, interp=cv2.INTER_NEAREST).view(segmentation.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale (N, 2) x, y coordinates, each axis by the ratio of its rounded size.

        Integers become floats; Detectron2's ``ResizeTransform`` would cut their fractions off.
        """
        return coords * np.array([self.new_w / self.w, self.new_h / self.h])

    def inverse(self) -> "OpenCVResizeTransform":
        return OpenCVResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ResizeKeepRatio(T.Augmentation):
    """Resize so that the shorter edge gets a length, unless the longer edge would exceed another;
    MMDetection's ``Resize(keep_ratio=True)``.

    Replaces Detectron2's ``ResizeShortestEdge``, with the same arguments.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "choice",
    ):
        """
        Args:
            short_edge_length: with "choice", lengths to choose from; with "range", the least and
                the greatest length to sample from. 0 does not resize.
            max_size: the greatest length of the longer edge.
            sample_style: "choice" (uniformly among those given) or "range".

        Raises:
            ValueError: if the style is unknown, there is no length, or a range is not two lengths.
        """
        super().__init__()
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        short_edge_length = tuple(short_edge_length)
        if sample_style not in ("choice", "range"):
            raise ValueError(f'Sampling must be "choice" or "range", got {sample_style!r}')
        if sample_style == "range" and len(short_edge_length) != 2:
            raise ValueError(
                'Sampling the short edge by "range" takes two lengths, the least and the greatest; '
                f"got {short_edge_length}"
            )
        if not short_edge_length:
            raise ValueError("No length of the short edge is given (INPUT.MIN_SIZE_*)")
        self._init(
            {
                "short_edge_length": short_edge_length,
                "max_size": max_size,
                "sample_style": sample_style,
            }
        )

    def get_transform(self, image: np.ndarray) -> Transform:
        if self.sample_style == "range":
            low, high = self.short_edge_length
            size = int(np.random.randint(low, high + 1))
        else:
            size = int(np.random.choice(self.short_edge_length))
        if size == 0:
            return NoOpTransform()
        h, w = image.shape[:2]
        return OpenCVResizeTransform(h, w, *keep_ratio_size(h, w, size, self.max_size))


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resize, for strips too.

    Detectron2 rounds the short edge of an image like 3000 x 1 down to no pixel, which Pillow
    refuses; here it keeps one, as in :func:`keep_ratio_size`.
    """

    def get_transform(self, image: np.ndarray) -> Transform:
        found = super().get_transform(image)
        if isinstance(found, ResizeTransform) and not (found.new_h and found.new_w):
            size = max(found.new_h, 1), max(found.new_w, 1)
            return ResizeTransform(found.h, found.w, *size, found.interp)
        return found


def keep_ratio_size(h: int, w: int, short_edge: int, max_size: int) -> tuple[int, int]:
    """Height and width after a resize that keeps the ratio, as ``mmcv.rescale_size`` rounds it.

    Both sides are scaled by one factor. Detectron2 scales twice when the longer edge is the limit,
    and differs by one pixel for some sizes, such as 370 x 620 at (1333, 800).
    """
    scale = min(max_size / max(h, w), short_edge / min(h, w))
    # At least one pixel: extreme strips would vanish otherwise.
    return max(int(h * scale + 0.5), 1), max(int(w * scale + 0.5), 1)
