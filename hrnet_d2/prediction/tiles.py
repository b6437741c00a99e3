"""Large images in tiles, so that small objects keep their pixels."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from hrnet_d2.config_file import ConfigError
from hrnet_d2.evaluation.rle import encode_crop

from .detector import Detector
from .merging import MERGES, merge_views
from .result import Prediction

__all__ = ["TiledDetector", "tile_starts"]

# The whole image, as a view of its own, is not larger in the network than this many tiles.
WHOLE = 4
# Pixels from an inner border at which a detection counts as cut: of the overlap, since detectors do
# not draw a box to the border, and at least. Less than half, so that the next tile sees it whole.
BORDER_SHARE, LEAST_BORDER = 0.4, 2.0


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis: evenly, from the first pixel to the last.

    Args:
        length: of the axis, in pixels.
        tile: of a tile.
        overlap: the least share of a tile that it has in common with the next.
    """
    if length <= tile:
        return [0]
    step = max(1.0, tile * (1 - overlap))
    count = int(np.ceil((length - tile) / step)) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


class TiledDetector(Detector):
    """Runs a detector on the tiles of each image, and on the image as a whole.

    The latter finds what is larger than a tile.  Only some tiles are in the network at a time, and
    masks are kept as run lengths, so that memory hardly grows with the image.
    """

    def __init__(
        self, inner: Detector, tile: int, overlap: float = 0.2, merge: str = "nms"
    ) -> None:
        """
        Args:
            inner: runs the network.
            tile: width and height of a tile in pixels.
            overlap: the least share of a tile that it has in common with the next.
            merge: see :func:`merging.merge_views`.

        Raises:
            ConfigError: if one of them cannot be.
        """
        if tile < 32:
            raise ConfigError(f"--tiles {tile} is too small: give 32 pixels or more")
        if not 0 <= overlap <= 0.9:
            raise ConfigError(f"--overlap {overlap} is no share of a tile: give 0 to 0.9")
        if merge not in MERGES:
            raise ConfigError(f"--merge {merge}: there are {', '.join(MERGES)}")
        self.inner = inner
        self.tile = tile
        self.overlap = overlap
        self.merge = merge
        self.on_cpu = inner.on_cpu

    @property
    def seconds(self) -> float:  # type: ignore[override]
        """That the network took."""
        return self.inner.seconds

    @property
    def threshold(self) -> float:
        """The least score."""
        return self.inner.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.inner.threshold = value

    def most_at_once(self, image: np.ndarray) -> int:
        """One: the tiles of an image run together."""
        return 1

    def __call__(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """See :class:`Detector`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Prediction:
        height, width = image.shape[:2]
        if max(height, width) <= self.tile:
            return self.inner([image])[0]
        parts: list[Prediction] = []
        cut: list[np.ndarray] = []
        overlap = self._least_overlap(height, width)
        border = max(LEAST_BORDER, BORDER_SHARE * overlap)
        for batch in self._batches(image):
            tiles = [image[y : y + h, x : x + w] for x, y, w, h in batch]
            for view, found in zip(batch, self.inner(tiles), strict=True):
                cut.append(_is_cut(found.boxes, view, width, height, border))
                parts.append(_moved(found, view, width, height))
        whole, zoom = self._whole(image)
        parts.append(whole)
        # What tiles show whole, they show with more pixels.
        small = (whole.boxes[:, 2:] - whole.boxes[:, :2]).max(1, initial=0) <= overlap
        cut.append(small & (zoom < 0.9))
        return merge_views(_joined(parts, width, height), np.concatenate(cut), self.merge)

    def _least_overlap(self, height: int, width: int) -> int:
        """Pixels that neighboring tiles have in common."""
        steps = [
            b - a
            for length in (height, width)
            for a, b in itertools.pairwise(tile_starts(length, self.tile, self.overlap))
        ]
        return self.tile - max(steps)

    def _batches(self, image: np.ndarray) -> Iterator[list[tuple[int, int, int, int]]]:
        height, width = image.shape[:2]
        h, w = min(self.tile, height), min(self.tile, width)
        views = [
            (x, y, w, h)
            for y in tile_starts(height, self.tile, self.overlap)
            for x in tile_starts(width, self.tile, self.overlap)
        ]
        step = self.inner.most_at_once(image[:h, :w])
        for start in range(0, len(views), step):
            yield views[start : start + step]

    def _whole(self, image: np.ndarray) -> tuple[Prediction, float]:
        """Detections of the image as a whole, made smaller first if the network would not.

        Also how large the network sees it, compared with how large it sees a tile.
        """
        height, width = image.shape[:2]
        rows, columns = self.inner.padded_size(image)
        tile = self.inner.padded_size(image[: self.tile, : self.tile])
        scale = min(1.0, (WHOLE * tile[0] * tile[1] / (rows * columns)) ** 0.5)
        shown = min(self.tile, height) * min(self.tile, width)
        zoom = scale * (rows * columns / (height * width) / (tile[0] * tile[1] / shown)) ** 0.5
        if scale == 1:
            return self.inner([image])[0], zoom
        size = max(1, int(width * scale)), max(1, int(height * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return _scaled(self.inner([small])[0], width, height), zoom


def _is_cut(
    boxes: np.ndarray,
    view: tuple[int, int, int, int],
    width: int,
    height: int,
    border: float,
) -> np.ndarray:
    """Whether boxes of a tile end near a border of it that is none of the image's."""
    x, y, w, h = view
    cut = np.zeros(len(boxes), bool)
    if x > 0:
        cut |= boxes[:, 0] < border
    if y > 0:
        cut |= boxes[:, 1] < border
    if x + w < width:
        cut |= boxes[:, 2] > w - border
    if y + h < height:
        cut |= boxes[:, 3] > h - border
    return cut


def _moved(
    found: Prediction, view: tuple[int, int, int, int], width: int, height: int
) -> Prediction:
    """From the pixels of a tile to those of the image."""
    x, y = view[:2]
    found.boxes = found.boxes + np.array([x, y, x, y], np.float32)
    if found.masks is not None:
        found.masks = [
            encode_crop(mask_util.decode(rle), y, x, height, width) for rle in found.masks
        ]
    found.width, found.height = width, height
    return found


def _scaled(found: Prediction, width: int, height: int) -> Prediction:
    """From the pixels of a smaller image to those of the image."""
    factor = np.array([width / found.width, height / found.height])
    if found.masks is not None:
        found.masks = [_enlarged(rle, factor, width, height) for rle in found.masks]
    found.boxes = (found.boxes * np.tile(factor, 2)).astype(np.float32)
    found.width, found.height = width, height
    return found


def _enlarged(rle: dict[str, Any], factor: np.ndarray, width: int, height: int) -> dict[str, Any]:
    """A mask in a larger image; only the part around it becomes pixels."""
    mask = mask_util.decode(rle)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return encode_crop(np.zeros((1, 1), np.uint8), 0, 0, height, width)
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    x, y = (np.array([columns[0], rows[0]]) * factor).round().astype(int)
    right, bottom = (np.array([columns[-1] + 1, rows[-1] + 1]) * factor).round().astype(int)
    size = max(1, min(right, width) - x), max(1, min(bottom, height) - y)
    large = cv2.resize(part.astype(np.float32), (int(size[0]), int(size[1])))
    return encode_crop(large >= 0.5, int(y), int(x), height, width)


def _joined(parts: list[Prediction], width: int, height: int) -> Prediction:
    masks: list[dict[str, Any]] | None = None
    if all(part.masks is not None for part in parts):
        masks = [rle for part in parts for rle in part.masks or ()]
    return Prediction(
        width=width,
        height=height,
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        masks=masks,
    )
