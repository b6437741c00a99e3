import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform

from hrnet_d2.data import OpenCVResizeTransform, ResizeKeepRatio, build_augmentation
from hrnet_d2.data.transforms import keep_ratio_size

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = sorted(p.stem for p in REFERENCE.glob("*.json"))


def test_reference_cases_are_there():
    assert len(CASES) >= 8


@pytest.mark.parametrize("name", CASES)
def test_resize_equals_mmdetection_bit_for_bit(name):
    case = json.loads((REFERENCE / f"{name}.json").read_text())
    image = cv2.imread(str(REFERENCE / "images" / case["image"]))
    long, short = case["scale"]
    resized = ResizeKeepRatio(short, long).get_transform(image).apply_image(image)
    expected = np.load(REFERENCE / f"{name}.npz")["image_resized"]
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, expected)


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),
        ((640, 480), (800, 1333), (1067, 800)),
        ((427, 640), (800, 1333), (800, 1199)),
        ((100, 1000), (800, 1333), (133, 1333)),
        ((500, 500), (320, 512), (320, 320)),
        ((1, 5000), (800, 1333), (1, 1333)),
    ],
)
def test_size(size, limits, expected):
    assert keep_ratio_size(*size, *limits) == expected


@pytest.mark.parametrize("size", [(370, 620), (333, 558), (306, 612), (319, 638)])
def test_sizes_that_detectron2_rounds_differently(size):
    h, w = size
    ours = keep_ratio_size(h, w, 800, 1333)
    stock = T.ResizeShortestEdge.get_output_shape(h, w, 800, 1333)
    assert ours != stock
    assert max(abs(a - b) for a, b in zip(ours, stock, strict=True)) == 1
    # One factor for both sides, as mmcv.rescale_size.
    factor = min(1333 / max(size), 800 / min(size))
    assert ours == (int(h * factor + 0.5), int(w * factor + 0.5))


@pytest.mark.parametrize(("size", "expected"), [((1, 5000), (1, 1333)), ((5000, 1), (1333, 1))])
def test_detectron2s_resize_keeps_a_pixel_of_strips(cfg, size, expected):
    cfg.INPUT.BACKEND, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = "detectron2", 800, 1333
    (resize,) = build_augmentation(cfg, False)
    image = np.full((*size, 3), 7, np.uint8)
    resized = resize.get_transform(image).apply_image(image)
    assert resized.shape == (*expected, 3) and (resized == 7).all()
    # Others are resized by Detectron2 itself.
    stock = T.ResizeShortestEdge([800, 800], 1333, "choice")
    image = np.random.default_rng(0).integers(0, 256, (37, 62, 3), dtype=np.uint8)
    expected = stock.get_transform(image).apply_image(image)
    np.testing.assert_array_equal(resize.get_transform(image).apply_image(image), expected)


def test_number_of_sizes_that_detectron2_rounds_differently():
    """142 of all sizes from 32 to 640 pixels, at (1333, 800)."""
    stock = T.ResizeShortestEdge.get_output_shape
    different = sum(
        keep_ratio_size(h, w, 800, 1333) != stock(h, w, 800, 1333)
        for h in range(32, 641)
        for w in range(32, 641)
    )
    assert different == 142


def test_differs_from_pillow_when_shrinking():
    image = np.random.RandomState(0).randint(0, 256, (100, 150, 3)).astype(np.uint8)
    ours = OpenCVResizeTransform(100, 150, 40, 60).apply_image(image)
    stock = T.ResizeTransform(100, 150, 40, 60).apply_image(image)
    assert ours.shape == stock.shape
    assert np.abs(ours.astype(int) - stock.astype(int)).max() > 20


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("new", [(37, 91), (13, 20), (40, 60)])
def test_segmentation_is_nearest(dtype, new):
    labels = np.random.RandomState(1).randint(0, 200, (40, 60)).astype(dtype)
    if dtype == np.int64:
        labels += 2**40
    resized = OpenCVResizeTransform(40, 60, *new).apply_segmentation(labels)
    rows = np.minimum((np.arange(new[0]) * (40 / new[0])).astype(int), 39)
    columns = np.minimum((np.arange(new[1]) * (60 / new[1])).astype(int), 59)
    assert resized.dtype == labels.dtype
    np.testing.assert_array_equal(resized, labels[rows][:, columns])


def test_single_channel_stays():
    image = np.zeros((40, 60, 1), np.uint8)
    assert OpenCVResizeTransform(40, 60, 20, 30).apply_image(image).shape == (20, 30, 1)


def test_flipped_views():
    image = np.random.RandomState(0).randint(0, 256, (10, 12, 3)).astype(np.uint8)
    transform = OpenCVResizeTransform(10, 12, 21, 25)
    flipped = transform.apply_image(image[:, ::-1])
    np.testing.assert_array_equal(flipped, transform.apply_image(image[:, ::-1].copy()))
    labels = transform.apply_segmentation(image[:, ::-1, 0])
    np.testing.assert_array_equal(labels, transform.apply_segmentation(image[:, ::-1, 0].copy()))


def test_coordinates_scale_per_axis_and_back():
    transform = OpenCVResizeTransform(h=427, w=640, new_h=800, new_w=1199)
    whole = np.array([[640, 427], [1, 1]])
    scaled = transform.apply_coords(whole)
    np.testing.assert_allclose(scaled, [[1199, 800], [1199 / 640, 800 / 427]])
    np.testing.assert_allclose(transform.inverse().apply_coords(scaled), whole)
    np.testing.assert_allclose(
        transform.apply_box(np.array([[10, 20, 30, 41]])),
        [[10 * 1199 / 640, 20 * 800 / 427, 30 * 1199 / 640, 41 * 800 / 427]],
    )


def test_sampling():
    image = np.zeros((100, 200, 3), np.uint8)
    choice = ResizeKeepRatio((64, 80), 1000)
    assert {choice.get_transform(image).new_h for _ in range(50)} == {64, 80}
    between = ResizeKeepRatio((64, 80), 1000, "range")
    heights = {between.get_transform(image).new_h for _ in range(200)}
    assert min(heights) >= 64 and max(heights) <= 80 and len(heights) > 5
    assert ResizeKeepRatio(64, 1000, "range").get_transform(image).new_h == 64


def test_zero_does_not_resize():
    image = np.zeros((10, 20, 3), np.uint8)
    assert isinstance(ResizeKeepRatio(0).get_transform(image), NoOpTransform)


def test_same_size_is_the_same_image():
    image = np.zeros((10, 20, 3), np.uint8)
    assert OpenCVResizeTransform(10, 20, 10, 20).apply_image(image) is image


def test_errors():
    with pytest.raises(ValueError, match="choice.*range.*'any'"):
        ResizeKeepRatio(800, 1333, "any")
    with pytest.raises(ValueError, match="two lengths"):
        ResizeKeepRatio((1, 2, 3), 1333, "range")
    with pytest.raises(ValueError, match="MIN_SIZE"):
        ResizeKeepRatio((), 1333)
    with pytest.raises(ValueError, match="20 x 0"):
        OpenCVResizeTransform(0, 20, 10, 10)
    with pytest.raises(ValueError, match="60 x 40.*got one of 20 x 10"):
        OpenCVResizeTransform(40, 60, 80, 120).apply_image(np.zeros((10, 20, 3), np.uint8))


def test_build_augmentation(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (640, 800), 1333
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 500, 600
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.CROP.ENABLED = True
    crop, resize, flip = build_augmentation(cfg, True)
    assert isinstance(crop, T.RandomCrop)
    assert isinstance(resize, ResizeKeepRatio)
    assert (resize.short_edge_length, resize.max_size) == ((640, 800), 1333)
    assert resize.sample_style == "choice"
    assert isinstance(flip, T.RandomFlip) and flip.horizontal
    (test,) = build_augmentation(cfg, False)
    assert (test.short_edge_length, test.max_size) == ((500, 500), 600)

    cfg.INPUT.BACKEND = "detectron2"
    assert isinstance(build_augmentation(cfg, False)[0], T.ResizeShortestEdge)
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.CROP.ENABLED = "none", False
    assert len(build_augmentation(cfg, True)) == 1
    cfg.INPUT.RANDOM_FLIP = "sometimes"
    with pytest.raises(ValueError, match="RANDOM_FLIP.*sometimes"):
        build_augmentation(cfg, True)
    cfg.INPUT.BACKEND = "pillow"
    with pytest.raises(ValueError, match="INPUT.BACKEND.*pillow"):
        build_augmentation(cfg, True)
