"""What an image file says about itself, read without decoding it."""

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import Image

__all__ = ["ImageHeader", "read_header"]

PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # Exif tag
# JPEG markers: start of frame (all kinds, without DHT, JPG and DAC), and those without a length.
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LOST = bytes(64)
STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
# What is no marker in the data of a scan: a byte 0xFF (before a zero), fill bytes and restarts.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass
class ImageHeader:
    """Size and orientation of an image file, as far as they are known."""

    width: int = 0
    height: int = 0
    orientation: int = 1
    """Exif orientation, 1 to 8; 1 is upright."""
    defect: str = ""
    """Why the file cannot be decoded, if that can be told without decoding."""
    warning: str = ""
    """What is wrong with the file, but not with its pixels."""


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file of any format that Pillow knows; empty for others.

    JPEG and PNG, which nearly all images are, are parsed here: it takes microseconds, and tells
    truncated JPEGs and damaged chunks of PNGs.  OpenCV 4 decodes the former and fills what is
    missing with gray.

    Args:
        data: the whole file.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _read_jpeg(data)
        if data[:8] == PNG:
            return _read_png(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                return ImageHeader(*image.size)
    except Image.DecompressionBombError as error:  # "Image size (... pixels) exceeds limit ..."
        pixels = re.search(r"\d+", str(error))
        return ImageHeader(int(pixels[0]) if pixels else 0, 1)
    except Exception:  # of a damaged header: the decoder will tell
        return ImageHeader()


def _read_jpeg(data: bytes) -> ImageHeader:
    header = ImageHeader()
    # The end marker must come after the last start of scan: an embedded thumbnail has both. What
    # phones append, such as a video, may have any bytes: then the image is read from its start.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda") and _end_of_jpeg(data) < 0:
        header.defect = "the file is truncated"
    place, sequential, flat = 2, False, True
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            break
        marker = data[place + 1]
        if marker == 0xFF or marker in STANDALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:
            zeros = data.find(LOST, place + 2 + length, data.rfind(b"\xff\xd9"))
            if zeros >= 0 and sequential and not flat and not 0 < _end_of_jpeg(data) < zeros:
                header.warning = (
                    f"its pixels' data have {len(LOST)} or more zero bytes in a row from byte "
                    f"{zeros} on: a part of the file was lost"
                )
            break
        body = data[place + 4 : place + 2 + length]
        if marker in START_OF_FRAME:
            header.height, header.width = struct.unpack_from(">HH", body, 1)
            sequential = marker in (0xC0, 0xC1)
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            header.orientation = _exif_orientation(body[6:])
        if marker == 0xC4:
            flat = flat and _zeros_are_flat(body)
        place += 2 + length
    return header


def _end_of_jpeg(data: bytes) -> int:
    """Where the end marker of a JPEG's image is, not that of a thumbnail; -1 if there is none."""
    place = 2
    while found := MARKER.search(data, place):
        place = found.end()
        marker = data[place - 1]
        if marker == 0xD9:
            return found.start()
        if marker not in STANDALONE:
            place += int.from_bytes(data[place : place + 2], "big")
    return -1


def _zeros_are_flat(tables: bytes) -> bool:
    """Whether zero bits can stand for many blocks of one color, by some Huffman tables.

    They do if the code of zeros, the first of a table, is the end of a block in all tables of AC
    coefficients, as optimized tables of drawings may have it.  Standard tables have not.
    """
    place = 0
    while place + 17 <= len(tables):
        symbols = sum(tables[place + 1 : place + 17])
        if tables[place] >> 4 and symbols and tables[place + 17] != 0:
            return False
        place += 17 + symbols
    return True


def _exif_orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return 1
    try:
        (place,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, place)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, place + 2 + 12 * entry)
            if tag == ORIENTATION:
                return int(value) if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _read_png(data: bytes) -> ImageHeader:
    header = ImageHeader()
    header.width, header.height = struct.unpack_from(">II", data, 16)
    place, kind = 8, b""
    view = memoryview(data)
    while place + 12 <= len(data) and kind != b"IEND":
        length = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        end = place + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            name = kind.decode("ascii", "replace")
            text = f"the checksum of its chunk {name} at byte {place} is wrong"
            if kind[:1].isupper():  # a critical chunk, in PNG's terms
                header.defect = text
                return header
            header.warning = text
        place = end + 4
    if kind != b"IEND":
        header.defect = "the file is truncated"
    return header
