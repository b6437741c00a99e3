"""Reading images and label maps, with errors that name the file."""

import cv2
import numpy as np
from detectron2.data import detection_utils
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils.file_io import PathManager

__all__ = ["ImageReadError", "check_image_size", "read_image", "read_label_map"]

BACKENDS = ("opencv", "detectron2")


class ImageReadError(OSError):
    """A file exists but cannot be decoded as the expected kind of image."""


def read_image(path: str, format: str = "BGR", backend: str = "opencv") -> np.ndarray:
    """Read an image upright (EXIF orientation applied), as three channels.

    Args:
        path: a local file, or any path that Detectron2's ``PathManager`` opens.
        format: order of the channels, "BGR" or "RGB"; with the backend "detectron2" also the
            other formats of ``detectron2.data.detection_utils.read_image``.
        backend: "opencv" decodes as MMDetection does (``cv2.imdecode``, ``IMREAD_COLOR``: gray
            images become three channels, alpha is dropped, 16 bits become 8); "detectron2" with
            Pillow.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageReadError: if the file is empty, truncated, damaged or not an image.
        ValueError: if the format or backend is unknown.
    """
    if backend == "detectron2":
        return _read_with_detectron2(path, format)
    if backend != "opencv":
        raise ValueError(f"INPUT.BACKEND must be one of {BACKENDS}, got {backend!r}")
    if format not in ("BGR", "RGB"):
        raise ValueError(
            f'INPUT.FORMAT is {format!r}: the backend "opencv" reads "BGR" and "RGB"; '
            'set INPUT.BACKEND to "detectron2" for other formats'
        )
    image = _decode(path, cv2.IMREAD_COLOR)
    if format == "RGB":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image


def read_label_map(path: str) -> np.ndarray:
    """Read a semantic map: a PNG of one 8-bit channel whose values are the labels.

    Values are taken as stored, as MMDetection's ``imdecode_backend='cv2'`` with
    ``IMREAD_UNCHANGED`` takes them.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageReadError: if the file cannot be decoded, or is not an 8-bit map of one channel.
    """
    labels = _decode(path, cv2.IMREAD_UNCHANGED)
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


def _read_with_detectron2(path: str, format: str) -> np.ndarray:
    try:
        image = detection_utils.read_image(path, format=format)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNGs
        raise ImageReadError(f"Image {path} cannot be decoded: {error}") from error
    return image


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"File {path} does not exist. Check the folder of images given with the dataset and the "
        "file names in its annotations"
    )


def _decode(path: str, flags: int) -> np.ndarray:
    """The pixels of a file through ``cv2.imdecode``."""
    try:
        with PathManager.open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise ImageReadError(f"File {path} cannot be read: {error}") from error
    if not data:
        raise ImageReadError(f"Image {path} cannot be decoded: the file is empty")
    pixels = None
    if not _is_cut_jpeg(data):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ImageReadError(
            f"Image {path} cannot be decoded ({len(data)} bytes): the file is truncated, "
            "damaged or of a format that OpenCV does not read. Copy it again, or remove it from "
            "the dataset"
        )
    return pixels


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG ends before its end marker: OpenCV 4 decodes such files and fills what is
    missing with gray.

    The end marker must come after the last start of scan: an embedded thumbnail has both.
    """
    return data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
