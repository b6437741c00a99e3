"""Validity of COCO segmentations, checked before pycocotools sees them.

pycocotools reads uninitialized memory for run-length encodings that are too short, and takes all
memory, or crashes, for polygons with NaN or huge coordinates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "SegmentationError",
    "check_polygon",
    "check_rle",
    "clean_segmentation",
    "is_plain_polygon",
    "valid_rle_strings",
]

MAX_COORDINATE = 1e5  # pixels; at least twice the larger side of the image is always allowed
# pycocotools walks along polygons in steps of a fifth of a pixel and stores every step.
MAX_PERIMETER = 5e6
# Polygons with a smaller sum of absolute coordinates are within both limits.
SMALL_SUM = 1e5
CHUNK = 1 << 21  # characters of run-length encodings that are decoded at once

_NUMBERS = frozenset((int, float))
_INTEGER = frozenset((int,))


class SegmentationError(ValueError):
    """A segmentation is malformed; the message says how, without naming the object."""


def clean_segmentation(
    value: Any,
    height: int,
    width: int,
    check_string: Callable[[str, int], None] | None = None,
) -> tuple[list | dict | None, str | None]:
    """Check a segmentation as it stands in a COCO file, and repair what has only one meaning.

    Args:
        value: polygons (a list of x, y, x, y, ... in pixels) or a run-length encoding.
        height, width: size of the image.
        check_string: called with the counts of a compressed run-length encoding and the number of
            pixels instead of checking them, for callers that check many at once with
            :func:`valid_rle_strings`.

    Returns:
        The segmentation, ``value`` itself if nothing had to be repaired and None if it is empty;
        and what was repaired, or None.

    Raises:
        SegmentationError: if it is malformed.
    """
    if isinstance(value, list):
        for polygon in value:
            if not is_plain_polygon(polygon):
                return _clean_polygons(value, height, width)
        return (value, None) if value else (None, None)
    if isinstance(value, dict):
        check_rle(value, height, width, check_string)
        return value, None
    if value is None:
        return None, None
    raise SegmentationError("neither a list of polygons nor a run-length encoding")


def check_rle(
    rle: dict,
    height: int,
    width: int,
    check_string: Callable[[str, int], None] | None = None,
) -> None:
    """Check a run-length encoding of COCO, compressed or not.

    Raises:
        SegmentationError: if its size is not the image's, or its counts do not cover the image.
    """
    if "size" not in rle or "counts" not in rle:
        raise SegmentationError('a run-length encoding without "size" or "counts"')
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or not all(_is_whole(v) for v in size):
        raise SegmentationError('a run-length encoding whose "size" is not [height, width]')
    if list(size) != [height, width]:
        raise SegmentationError("a run-length encoding of another size than its image")
    pixels = height * width
    if isinstance(counts, str | bytes):
        if check_string is not None and isinstance(counts, str):
            check_string(counts, pixels)
        elif not valid_rle_strings([counts], [pixels])[0]:
            raise SegmentationError(
                "a compressed run-length encoding that does not cover its image"
            )
    elif not isinstance(counts, list) or not (
        _INTEGER.issuperset(map(type, counts)) or all(map(_is_whole, counts))
    ):
        raise SegmentationError('a run-length encoding whose "counts" are not whole numbers')
    elif not counts or min(counts) < 0 or sum(counts) != pixels:
        raise SegmentationError("a run-length encoding whose counts do not cover its image")


def check_polygon(polygon: np.ndarray, height: int, width: int) -> None:
    """Check a polygon that pycocotools will rasterize.

    Args:
        polygon: (2 N,) float64, x, y, x, y, ... in pixels.
        height, width: size of the image.

    Raises:
        SegmentationError: if it has fewer than three points, an odd number of coordinates, or
            coordinates that are not finite or far outside the image.
    """
    if len(polygon) < 6 or len(polygon) % 2:
        raise SegmentationError(
            f"a polygon has {len(polygon)} numbers: it takes x and y of at least three points"
        )
    if not np.isfinite(polygon).all():
        raise SegmentationError("a polygon with coordinates that are not finite numbers")
    if np.abs(polygon).sum() < SMALL_SUM:
        return
    steps = np.abs(polygon - np.roll(polygon, 2)).reshape(-1, 2).max(axis=1)
    limit = max(MAX_COORDINATE, 2.0 * max(height, width))
    if np.abs(polygon).max() > limit or steps.sum() > MAX_PERIMETER + 8.0 * limit:
        raise SegmentationError("a polygon with coordinates far outside its image")


def valid_rle_strings(strings: Sequence[str | bytes], pixels: Sequence[int]) -> np.ndarray:
    """Which compressed run-length encodings are well-formed and cover exactly their image.

    Args:
        strings: N values of "counts".
        pixels: N numbers of pixels of the images.

    Returns:
        (N,) bool.
    """
    encoded = [s if isinstance(s, bytes) else s.encode("ascii", "replace") for s in strings]
    valid = np.zeros(len(encoded), dtype=bool)
    start = size = 0
    for i, text in enumerate(encoded):
        size += len(text)
        if size > CHUNK or i == len(encoded) - 1:
            part = slice(start, i + 1)
            valid[part] = _valid_rle_chunk(
                encoded[part], np.asarray(pixels[part], dtype=np.float64)
            )
            start, size = i + 1, 0
    return valid


def _valid_rle_chunk(encoded: list[bytes], pixels: np.ndarray) -> np.ndarray:
    """:func:`valid_rle_strings` for a limited number of characters.

    A count takes groups of five bits, the lowest first; bit 5 says that another group follows, bit
    4 of the last group is the sign.  From the fourth count on, differences to the count two before
    are stored.
    """
    number = len(encoded)
    lengths = np.array([len(text) for text in encoded])
    valid = lengths > 0
    codes = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(number), lengths)
    valid[owner[(codes < 0) | (codes > 63)]] = False
    more = (codes & 32) != 0
    ends = np.cumsum(lengths) - 1
    valid[valid] = ~more[ends[valid]]
    kept = valid[owner]
    codes, owner, more = codes[kept], owner[kept], more[kept]
    if not len(codes):
        return valid

    first = np.flatnonzero(np.concatenate([[True], ~more[:-1]]))
    digits = np.diff(first, append=len(codes))
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, digits))
    counts = np.add.reduceat((codes & 31) << np.minimum(shift, 35), first)
    counts -= np.where(codes[first + digits - 1] & 16, 1 << np.minimum(5 * digits, 40), 0)
    owner = owner[first]
    too_long = digits > 7
    counts[too_long] = 0
    valid[owner[too_long]] = False

    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    place = np.arange(len(owner)) - np.repeat(begins, np.diff(begins, append=len(owner)))
    for origin in (1, 2):  # odd places, and even ones without the first
        chain = np.flatnonzero((place > 0) & (place % 2 == origin % 2))
        if len(chain):
            sums = np.cumsum(counts[chain])
            heads = np.flatnonzero(place[chain] == origin)
            before = sums[heads] - counts[chain][heads]
            counts[chain] = sums - np.repeat(before, np.diff(heads, append=len(chain)))
    valid[owner[counts < 0]] = False
    return valid & (np.bincount(owner, weights=counts, minlength=number) == pixels)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_plain_polygon(polygon: Any) -> bool:
    """Whether a polygon is valid without a closer look: most are."""
    if type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not _NUMBERS.issuperset(map(type, polygon)):
        return False
    try:
        return sum(map(abs, polygon)) < SMALL_SUM
    except OverflowError:
        return False


def _clean_polygons(value: list, height: int, width: int) -> tuple[list | None, str | None]:
    if value and _NUMBERS.issuperset(map(type, value)):
        return [_checked(value, height, width)], "polygons given as one flat list"
    if len(value) > 2 and all(map(_is_point, value)):
        flat = [number for point in value for number in point]
        return [_checked(flat, height, width)], "polygons given as lists of points"
    polygons: list[list] = []
    repaired = None
    lines = 0
    for polygon in value:
        if not isinstance(polygon, list):
            raise SegmentationError("a polygon that is not a list of numbers")
        if not polygon:
            repaired = "empty polygons"
        elif all(isinstance(part, list) for part in polygon):
            if len(polygon) > 2 and all(map(_is_point, polygon)):
                polygon = [[number for point in polygon for number in point]]
                repaired = "polygons given as lists of points"
            else:
                repaired = "polygons nested too deeply"
            polygons += [_checked(part, height, width) for part in polygon]
        elif len(polygon) in (2, 4) and _NUMBERS.issuperset(map(type, polygon)):
            lines += 1
        else:
            polygons.append(_checked(polygon, height, width))
    if lines and not polygons:
        raise SegmentationError("only polygons of fewer than three points")
    if lines:
        repaired = "polygons of fewer than three points beside others"
    return polygons or None, repaired


def _checked(polygon: list, height: int, width: int) -> list:
    if not _NUMBERS.issuperset(map(type, polygon)):
        raise SegmentationError("a polygon that is not a list of numbers")
    if len(polygon) % 2:
        raise SegmentationError("a polygon with an odd number of coordinates")
    if len(polygon) < 6:
        raise SegmentationError("only polygons of fewer than three points")
    try:
        array = np.array(polygon, dtype=np.float64)
    except OverflowError:
        raise SegmentationError("a polygon with coordinates far outside its image") from None
    check_polygon(array, height, width)
    return polygon


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _NUMBERS.issuperset(map(type, value))
