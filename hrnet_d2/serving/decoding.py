"""From the bytes that a client sent to pixels, with an answer for what is no image."""

import numpy as np

from hrnet_d2.data import ImageReadError
from hrnet_d2.data.image_header import read_header
from hrnet_d2.data.image_io import decode_image

from .errors import RequestError

__all__ = ["check_size", "decode"]

# By the first bytes. Others that OpenCV decodes are refused: nobody sends them, and a size that no
# header tells beforehand cannot be limited.
FORMATS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WebP": (b"RIFF",),
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*"),
}
ACCEPTED = ", ".join(FORMATS)


def check_size(data: bytes, most_pixels: int) -> int:
    """The number of pixels of an image file by its header.

    Args:
        data: the file.
        most_pixels: that are accepted.

    Raises:
        RequestError: 400 for no data, 415 for what is no image, 422 for a damaged one, 413 for too
            many pixels.
    """
    if not data:
        raise RequestError(400, "The request has no data: send the bytes of an image file")
    known = any(data.startswith(start) for starts in FORMATS.values() for start in starts)
    header = read_header(data) if known else None
    if header is None or not header.width or not header.height:
        raise RequestError(
            415, f"This is no image ({len(data):,} bytes): send a file of one of {ACCEPTED}"
        )
    pixels = header.width * header.height
    if pixels > most_pixels:
        raise RequestError(
            413,
            f"The image has {header.width:,} x {header.height:,} pixels, more than this server "
            f"takes ({most_pixels / 1e6:g} million): send a smaller one",
        )
    if header.defect:
        raise RequestError(422, f"The image is damaged: {header.defect}")
    return pixels


def decode(data: bytes, backend: str, most_pixels: int) -> np.ndarray:
    """The image upright, as ``hrnet_d2.data.read_image`` reads a file.

    Args:
        data: the file, which :func:`check_size` accepted.
        backend: of decoding.
        most_pixels: as there.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        RequestError: 422 if the image is damaged.
    """
    try:
        return decode_image(data, "of the request", "BGR", backend, most_pixels)
    except ImageReadError as error:
        raise RequestError(
            422, f"The image is damaged, or of a kind that cannot be decoded ({len(data):,} bytes)"
        ) from error
