"""Tiles: every object once, small ones found, large ones whole, masks in their place."""

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from hrnet_d2.config_file import ConfigError
from hrnet_d2.evaluation.rle import encode_crop
from hrnet_d2.prediction import Prediction
from hrnet_d2.prediction.merging import merge_views
from hrnet_d2.prediction.tiles import TiledDetector, tile_starts
from tests.prediction.models import picture, predict, rows


class Rectangles:
    """A detector that finds the gray rectangles of an image, whole or in part, with masks."""

    on_cpu, seconds, threshold = True, 0.0, 0.0

    def __init__(self, least=3, batch=4):
        self.least = least
        self.batch = batch
        self.pixels = []

    def padded_size(self, image):
        return image.shape[:2]

    def most_at_once(self, image):
        return self.batch

    def __call__(self, images):
        self.pixels.append(sum(image.shape[0] * image.shape[1] for image in images))
        return [self._find(image) for image in images]

    def _find(self, image):
        height, width = image.shape[:2]
        boxes, masks = [], []
        count, parts = cv2.connectedComponents((image[:, :, 0] > 120).astype(np.uint8))
        for i in range(1, count):
            mask = (parts == i).astype(np.uint8)
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            if min(box[2] - box[0], box[3] - box[1]) < self.least:
                continue
            boxes.append(box)
            masks.append(encode_crop(mask, 0, 0, height, width))
        return Prediction(
            width=width,
            height=height,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.full(len(boxes), 0.9, np.float32),
            classes=np.zeros(len(boxes), np.int64),
            masks=masks,
        )


def canvas(*boxes, height=200, width=300):
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 250
    return image


@pytest.mark.parametrize(
    "length, tile, overlap",
    [
        (100, 100, 0.2),
        (101, 100, 0.2),
        (6000, 800, 0.2),
        (977, 64, 0),
        (50, 64, 0.5),
        (500, 64, 0.9),
    ],
)
def test_tiles_cover_an_axis(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] + tile >= length and starts[-1] <= max(0, length - tile)
    for a, b in zip(starts, starts[1:], strict=False):
        assert 0 < b - a <= tile * (1 - overlap) + 1


@pytest.mark.parametrize("merge", ["nms", "nmm"])
def test_every_object_is_found_once_and_whole(merge):
    boxes = [
        (5, 5, 15, 17),
        (58, 60, 70, 75),
        (90, 20, 100, 30),
        (120, 80, 133, 91),
        (20, 100, 280, 190),
    ]
    found = TiledDetector(Rectangles(), 64, 0.25, merge)([canvas(*boxes)])[0]
    assert len(found) == len(boxes)
    order = np.lexsort(found.boxes.T[::-1])
    # The last is larger than a tile, so that it is found in the smaller image of the whole.
    np.testing.assert_allclose(found.boxes[order], sorted(boxes), atol=3)
    for (x1, y1, x2, y2), index in zip(sorted(boxes), order, strict=True):
        mask = mask_util.decode(found.masks[index])
        exact = np.zeros((200, 300), np.uint8)
        exact[y1:y2, x1:x2] = 1
        assert mask.shape == exact.shape
        assert (mask & exact).sum() > 0.7 * (mask | exact).sum()


def test_neighbors_stay_apart():
    boxes = [(50, 50, 60, 60), (61, 50, 71, 60), (50, 61, 60, 71)]
    found = TiledDetector(Rectangles(), 64, 0.25)([canvas(*boxes)])[0]
    assert len(found) == 3


def test_a_small_object_inside_a_large_one_of_its_class_stays():
    found = merge_views(
        Prediction(
            boxes=np.array([[0, 0, 100, 100], [40, 40, 50, 50]], np.float32),
            scores=np.array([0.9, 0.8], np.float32),
            classes=np.zeros(2, np.int64),
        ),
        np.zeros(2, bool),
    )
    assert len(found) == 2


def test_a_part_yields_to_the_whole_even_with_a_better_score():
    prediction = Prediction(
        boxes=np.array([[0, 0, 30, 64], [0, 0, 100, 64], [0, 0, 30, 64]], np.float32),
        scores=np.array([0.99, 0.6, 0.5], np.float32),
        classes=np.array([0, 0, 1]),
    )
    found = merge_views(prediction, np.array([True, False, True]))
    assert found.boxes.tolist() == [[0, 0, 100, 64], [0, 0, 30, 64]]  # another class stays


def test_parts_become_one_by_nmm():
    size = (100, 100)

    def mask(x1, x2):
        crop = np.ones((10, x2 - x1), np.uint8)
        return encode_crop(crop, 0, x1, *size)

    prediction = Prediction(
        width=100,
        height=100,
        boxes=np.array([[0, 0, 60, 10], [20, 0, 90, 10]], np.float32),
        scores=np.array([0.9, 0.8], np.float32),
        classes=np.zeros(2, np.int64),
        masks=[mask(0, 60), mask(20, 90)],
    )
    found = merge_views(prediction, np.array([True, True]), "nmm")
    assert found.boxes.tolist() == [[0, 0, 90, 10]] and found.scores[0] == np.float32(0.9)
    assert mask_util.decode(found.masks[0])[:10, :90].all()
    assert mask_util.area(found.masks[0]) == 900


def test_memory_is_that_of_some_tiles():
    detector = Rectangles(batch=3)
    image = canvas((5, 5, 9, 9), height=1000, width=1500)
    TiledDetector(detector, 100)([image])
    assert max(detector.pixels) <= 4 * 100 * 100
    assert sum(detector.pixels) >= 1000 * 1500


def test_images_that_fit_into_a_tile_are_not_divided():
    detector = Rectangles()
    image = canvas((5, 5, 50, 50))
    (found,) = TiledDetector(detector, 300)([image])
    assert detector.pixels == [200 * 300] and found.boxes.tolist() == [[5, 5, 50, 50]]


@pytest.mark.parametrize(
    "values", [(16, 0.2, "nms"), (64, 1.0, "nms"), (64, -0.1, "nms"), (64, 0.2, "x")]
)
def test_values_that_cannot_be(values):
    with pytest.raises(ConfigError):
        TiledDetector(Rectangles(), *values)


def test_many_detections_need_little_memory():
    """One row of overlaps at a time: all pairs of 20,000 boxes would take 3 GB."""
    import tracemalloc

    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 5000, (20_000, 2)).astype(np.float32)
    prediction = Prediction(
        boxes=np.hstack([corners, corners + 400]),
        scores=rng.random(20_000).astype(np.float32),
        classes=np.zeros(20_000, np.int64),
    )
    tracemalloc.start()
    found = merge_views(prediction, rng.random(20_000) < 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 and 0 < len(found) < 20_000


def test_encoding_of_a_crop():
    rng = np.random.default_rng(0)
    for y, x, h, w in ((0, 0, 7, 9), (2, 3, 4, 5), (0, 3, 7, 2), (6, 8, 1, 1), (1, 0, 3, 9)):
        for density in (0.0, 0.4, 1.0):
            crop = (rng.random((h, w)) < density).astype(np.uint8)
            full = np.zeros((7, 9), np.uint8)
            full[y : y + h, x : x + w] = crop
            expected = mask_util.encode(np.asfortranarray(full))
            assert encode_crop(crop, y, x, 7, 9)["counts"] == expected["counts"].decode()
    with pytest.raises(ValueError, match="leads out"):
        encode_crop(np.ones((4, 4), np.uint8), 4, 0, 7, 9)


@pytest.mark.parametrize("kind", ["model", "mask_model"])
def test_tiles_from_the_shell(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    cv2.imwrite(str(tmp_path / "large.png"), picture(0, 150, 220))
    extra = ("--format", "jsonl,draw", "--confidence-threshold", "0", "--tiles", "80")
    assert predict(model, tmp_path / "large.png", output=tmp_path / "out", extra=extra) == 0
    (row,) = rows(tmp_path / "out")
    assert len(row["detections"]) > 5, "more than the model gives for an image"
    boxes = np.array([d["box"] for d in row["detections"]])
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 220 and boxes[:, 3].max() <= 150
    if kind == "mask_model":
        assert all(d["segmentation"]["size"] == [150, 220] for d in row["detections"])
