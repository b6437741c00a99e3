"""What users call an image: a file, a Pillow image or an array; the network gets an array."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from hrnet_d2.data import check_image, read_image
from hrnet_d2.data.image_io import MAX_PIXELS

__all__ = ["AnyImage", "ImageLoader", "named"]

AnyImage: TypeAlias = "np.ndarray | str | os.PathLike[str] | Image.Image"

# Modes of Pillow whose values are no 8-bit colors: their conversion to RGB would clip them.
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class ImageLoader:
    """From a path, a Pillow image or an array to a BGR array."""

    def __init__(self, backend: str = "opencv", max_pixels: int = MAX_PIXELS):
        """
        Args:
            backend: that decodes files, as in ``INPUT.BACKEND``.
            max_pixels: files with more pixels are refused.
        """
        self.backend = backend
        self.max_pixels = max_pixels

    def __call__(self, image: AnyImage) -> np.ndarray:
        """
        Args:
            image: the path of a file, read upright; or a Pillow image of 8 bits, whose Exif
                orientation is not applied, since its pixels are those that detections refer to;
                or (H, W, 3) uint8, BGR.

        Returns:
            (H, W, 3) uint8, BGR.

        Raises:
            FileNotFoundError: if there is no such file.
            ImageReadError: if the file cannot be decoded as an image.
            TypeError, ValueError: if it is no such image.
        """
        self.check(image)
        if isinstance(image, str | os.PathLike):
            path = os.fspath(image)
            try:
                return read_image(path, "BGR", self.backend, self.max_pixels)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"There is no image {path}") from error
        if isinstance(image, Image.Image):
            rgb: Any = np.asarray(image.convert("RGB"))
            return np.ascontiguousarray(rgb[:, :, ::-1])
        return image

    def check(self, image: Any) -> None:
        """Check what an image is, without reading or decoding it.

        Raises:
            TypeError, ValueError: if it is no image.
        """
        if isinstance(image, str | os.PathLike):
            return
        if not isinstance(image, Image.Image):
            check_image(image)
        elif image.mode in DEEP_MODES:
            raise ValueError(
                f"A Pillow image of mode {image.mode!r} has more than 8 bits: scale its values to "
                '0 ... 255 and convert it to mode "RGB"'
            )
        elif not all(image.size):
            raise ValueError(f"The image is empty: its width and height are {image.size}")


@contextlib.contextmanager
def named(image: str) -> Iterator[None]:
    """Errors of the body say which image they are of; those of files have its path."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{image}: {error}") from None
