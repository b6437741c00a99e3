"""Reading images and label maps, with errors that name the file."""

import io
import logging

import cv2
import numpy as np
from detectron2.data import detection_utils
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils.file_io import PathManager
from PIL import Image

from .decoder_messages import call_with_messages
from .image_header import ImageHeader, read_header

__all__ = [
    "MAX_PIXELS",
    "ImageReadError",
    "check_image_size",
    "decode_image",
    "read_image",
    "read_label_map",
]

logger = logging.getLogger(__name__)

BACKENDS = ("opencv", "detectron2")
MAX_PIXELS = 2**28  # the default of INPUT.MAX_PIXELS
MAX_WARNINGS = 100  # of a process; more damaged files than that need no list
# Exif orientations that keep width and height: upside down, and mirrored either way.
SAME_SIZE = {2: "mirrored", 3: "rotated by 180 degrees", 4: "mirrored top to bottom"}

_warned: set[tuple[str, str]] = set()


class ImageReadError(OSError):
    """A file exists but cannot be decoded as the expected kind of image."""


def read_image(
    path: str,
    format: str = "BGR",
    backend: str = "opencv",
    max_pixels: int = MAX_PIXELS,
    *,
    annotated: bool = False,
) -> np.ndarray:
    """Read an image upright (EXIF orientation applied), as three channels.

    A file that libjpeg calls corrupt and decodes all the same, for example because some of its
    bytes were lost, is returned as it is decoded, with a warning that names it.

    Args:
        path: a local file, or any path that Detectron2's ``PathManager`` opens.
        format: order of the channels, "BGR" or "RGB"; with the backend "detectron2" also the
            other formats of ``detectron2.data.detection_utils.read_image``.
        backend: "opencv" decodes as MMDetection does (``cv2.imdecode``, ``IMREAD_COLOR``: gray
            images become three channels, alpha is dropped, 16 bits become 8); "detectron2" with
            Pillow.
        max_pixels: images with more pixels are refused before they are decoded.
        annotated: the image has annotations. If it is turned upright by 90 degrees,
            :func:`check_image_size` tells annotations of the image as stored by their size; here
            is a warning if it is turned by 180 degrees or mirrored, which keeps the size.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageReadError: if the file is empty, truncated, damaged or not an image.
        ValueError: if the format or backend is unknown.
    """
    _check_backend(format, backend)
    data = _read_file(path)
    return decode_image(data, path, format, backend, max_pixels, annotated=annotated)


def decode_image(
    data: bytes,
    name: str,
    format: str = "BGR",
    backend: str = "opencv",
    max_pixels: int = MAX_PIXELS,
    *,
    annotated: bool = False,
) -> np.ndarray:
    """:func:`read_image` for the bytes of an image file, such as a member of an archive.

    Args:
        data: the whole file.
        name: what messages call it.
        format, backend, max_pixels, annotated: see :func:`read_image`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageReadError: if the data are empty, truncated, damaged or no image.
        ValueError: if the format or backend is unknown.
    """
    _check_backend(format, backend)
    if not data:
        raise ImageReadError(f"Image {name} cannot be decoded: the file is empty")
    header = _check_header(name, data, max_pixels)
    if annotated and header.orientation in SAME_SIZE:
        _warn_once(
            name,
            f"its Exif orientation {header.orientation} ({SAME_SIZE[header.orientation]}) is "
            "applied on reading. Check that it was annotated upright, or save it without Exif",
        )
    if backend == "detectron2":
        return _decode_with_pillow(name, data, format)
    image = _decode(name, data, cv2.IMREAD_COLOR)
    if format == "RGB":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image


def _check_backend(format: str, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"INPUT.BACKEND must be one of {BACKENDS}, got {backend!r}")
    if backend == "opencv" and format not in ("BGR", "RGB"):
        raise ValueError(
            f'INPUT.FORMAT is {format!r}: the backend "opencv" reads "BGR" and "RGB"; '
            'set INPUT.BACKEND to "detectron2" for other formats'
        )


def read_label_map(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a semantic map: a PNG of one 8-bit channel whose values are the labels.

    Values are taken as stored, as MMDetection's ``imdecode_backend='cv2'`` with
    ``IMREAD_UNCHANGED`` takes them.

    Args:
        path: a local file, or any path that Detectron2's ``PathManager`` opens.
        max_pixels: maps with more pixels are refused before they are decoded.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageReadError: if the file cannot be decoded, or is not an 8-bit map of one channel.
    """
    data = _read_file(path)
    _check_header(path, data, max_pixels)
    labels = _decode(path, data, cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        channels = 1 if labels.ndim == 2 else labels.shape[2]
        raise ImageReadError(
            f"Semantic map {path} has {channels} channel(s) of {labels.dtype}: it must be an 8-bit "
            "gray PNG whose pixel values are labels. Palette and color PNGs hold colors; save "
            "the label indices themselves (Pillow mode 'L')"
        )
    return labels


def check_image_size(record: dict, image: np.ndarray) -> None:
    """Check the image size against the annotation's; set it if the annotation has none.

    Args:
        record: a Detectron2 dataset dict. Gains "height" and "width" if they are missing.
        image: (H, W, C), as read, upright.

    Raises:
        SizeMismatchError: if the sizes differ (Detectron2's class, a ValueError).
    """
    height, width = image.shape[:2]
    expected = (record.get("width", width), record.get("height", height))
    if expected != (width, height):
        advice = (
            "The sides are swapped: the file carries an EXIF orientation, which is applied "
            "on reading, and the annotations may have been made on the image as stored. Save the "
            "image upright and without EXIF, or annotate it upright"
            if expected == (height, width)
            else "The boxes would not fit the image: restore the file that was annotated, or "
            "correct width, height and boxes in the annotation file"
        )
        raise SizeMismatchError(
            f"Image {record.get('file_name', '')} is {width} x {height} pixels (width x height), "
            f"its annotation says {expected[0]} x {expected[1]}. {advice}"
        )
    record["width"], record["height"] = width, height


def _read_file(path: str) -> bytes:
    try:
        with PathManager.open(path, "rb") as file:
            data: bytes = file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"File {path} does not exist. If it is of a dataset, check the folder of images given "
            "with it and the file names in its annotations"
        ) from error
    except OSError as error:
        raise ImageReadError(f"File {path} cannot be read: {error}") from error
    if not data:
        raise ImageReadError(f"Image {path} cannot be decoded: the file is empty")
    return data


def _check_header(path: str, data: bytes, max_pixels: int) -> ImageHeader:
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise ImageReadError(
            f"Image {path} has {header.width} x {header.height} pixels (width x height) by its "
            f"header, more than {max_pixels}. Set INPUT.MAX_PIXELS to a greater number if that is "
            "right; decoding takes at least three bytes for each"
        )
    if header.defect:
        raise _damaged(path, data, header.defect)
    if header.warning:
        _warn_once(path, header.warning)
    return header


def _decode(path: str, data: bytes, flags: int) -> np.ndarray:
    """The pixels of a file through ``cv2.imdecode``."""
    array = np.frombuffer(data, np.uint8)
    try:
        pixels, messages = call_with_messages(lambda: cv2.imdecode(array, flags))
    except cv2.error as error:
        raise _damaged(path, data, " ".join(str(error).split())) from error
    if pixels is None:
        raise _damaged(path, data, messages)
    if messages:
        _warn_once(
            path, f"the file is damaged, and is used as far as it could be decoded: {messages}"
        )
    return pixels


def _decode_with_pillow(path: str, data: bytes, format: str) -> np.ndarray:
    """As ``detectron2.data.detection_utils.read_image``, which takes a path."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Private, and kinder to damaged Exif data than Pillow's own.
            upright = detection_utils._apply_exif_orientation(image)
            pixels = detection_utils.convert_PIL_to_numpy(upright, format)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError for broken PNGs.
        raise ImageReadError(f"Image {path} cannot be decoded: {error}") from error
    return pixels


def _damaged(path: str, data: bytes, reason: str) -> ImageReadError:
    return ImageReadError(
        f"Image {path} cannot be decoded ({len(data)} bytes{'; ' + reason if reason else ''}): the "
        "file is truncated, damaged or of a format that OpenCV does not read. Copy it again, or "
        "leave it out"
    )


def _warn_once(path: str, text: str) -> None:
    """Each epoch reads the file again."""
    if (path, text) not in _warned and len(_warned) < MAX_WARNINGS:
        _warned.add((path, text))
        logger.warning("Image %s: %s", path, text)
