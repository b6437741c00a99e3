"""Augmentations: boxes, masks and semantic maps follow the pixels.

Every object is painted in the color of its class, so that the pixels of an augmented image say
where its objects are.
"""

import itertools

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng

from hrnet_d2 import model_zoo
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import HRNetDatasetMapper, build_augmentation, build_train_loader
from hrnet_d2.data import configure_custom_data as configure
from hrnet_d2.data.cropping import ClippingCrop, CropAroundObject, clip_polygon
from hrnet_d2.data.resumable import stream_of
from tests.data.datasets import layouts

COLORS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (250, 0, 250), (0, 250, 250)]
# Two objects of each image, which do not overlap: a triangle and a rectangle.
PLACES = [
    [[10, 10, 70, 14, 30, 60], [90, 30, 150, 30, 150, 110, 90, 110]],
    [[60, 60, 150, 70, 100, 115], [5, 5, 45, 5, 45, 95, 5, 95]],
    [[20, 50, 80, 20, 70, 110], [100, 8, 140, 8, 140, 60, 100, 60]],
]
H, W = 120, 160


@pytest.fixture(params=["polygon", "rle"])
def records(tmp_path, request):
    result = []
    for i, polygons in enumerate(PLACES):
        image = np.zeros((H, W, 3), np.uint8)
        labels = np.full((H, W), 20, np.uint8)
        annotations = []
        for k, polygon in enumerate(polygons):
            points = np.reshape(polygon, (-1, 2))
            bitmap = mask_util.decode(mask_util.frPyObjects([polygon], H, W))[:, :, 0]
            image[bitmap > 0] = COLORS[2 * i + k]
            labels[bitmap > 0] = 2 * i + k
            rle = mask_util.encode(np.asfortranarray(bitmap))
            annotations.append(
                {
                    "bbox": [*points.min(axis=0), *np.ptp(points, axis=0)],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": 2 * i + k,
                    "segmentation": [polygon] if request.param == "polygon" else rle,
                }
            )
        crowd = {**annotations[0], "iscrowd": 1, "category_id": 5}
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"{i}_map.png"), labels)
        result.append(
            {
                "file_name": str(tmp_path / f"{i}.png"),
                "sem_seg_file_name": str(tmp_path / f"{i}_map.png"),
                "height": H,
                "width": W,
                "annotations": [*annotations, crowd],
            }
        )
    return result


def config(*keys, name="mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco"):
    cfg = model_zoo.get_config(f"{name}.yaml")
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", (H,), "INPUT.FORMAT", "BGR"]
    )
    cfg.merge_from_list([v for k in keys for v in k.split("=")])
    check_config(cfg)
    return cfg


def samples(cfg, records, number=12):
    mapper = HRNetDatasetMapper(cfg, True)
    mapper.mix_with(records)
    for seed in range(number):
        seed_all_rng(seed)
        yield mapper(records[seed % len(records)])


def painted(image, category):
    """Pixels of a class; those that interpolation mixed are not among them."""
    pixels = image.permute(1, 2, 0).numpy().astype(int)
    return (np.abs(pixels - COLORS[category]) < 60).all(axis=2)


def differing(mask, other):
    """The pixels that are in ``mask`` alone, but for its border, which interpolation mixes."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7)), borderValue=0) > 0
    return (inner & ~other).sum()


def check_masks(record, unlabeled=0):
    """Each class' masks are its pixels, and each box is that of its mask.

    Args:
        record: an output of the mapper.
        unlabeled: pixels that objects may have which were dropped since little of them is visible.

    Returns:
        The number of objects.
    """
    instances = record["instances"]
    masks = instances.gt_masks.tensor.numpy()
    assert masks.shape[1:] == tuple(record["image"].shape[1:]) == instances.image_size
    classes = instances.gt_classes.tolist()
    for category in range(len(COLORS)):
        own = [m for m, c in zip(masks, classes, strict=True) if c == category]
        pixels = painted(record["image"], category)
        assert all(differing(mask, pixels) == 0 for mask in own), category
        union = np.any([np.zeros_like(pixels), *own], axis=0)
        assert differing(pixels, union) <= unlabeled, category
    for mask, box in zip(masks, instances.gt_boxes.tensor.numpy(), strict=True):
        if mask.any():
            x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            np.testing.assert_allclose(box, [x[0], y[0], x[-1] + 1, y[-1] + 1], atol=1)
    return len(classes)


AUGMENTATIONS = {
    "none": [],
    "crop": ["INPUT.CROP.ENABLED=True", "INPUT.CROP.SIZE=[0.5, 0.4]"],
    "around": [
        "INPUT.CROP.ENABLED=True",
        "INPUT.CROP.AROUND_OBJECTS=True",
        "INPUT.CROP.TYPE=absolute",
        "INPUT.CROP.SIZE=[50, 60]",
    ],
    "scale": [
        "INPUT.SCALE_JITTER.ENABLED=True",
        "INPUT.SCALE_JITTER.MIN_SCALE=0.5",
        "INPUT.SCALE_JITTER.SIZE=[100, 140]",
    ],
    "mosaic": ["INPUT.MOSAIC.PROB=1.0"],
    "paste": ["INPUT.COPY_PASTE.PROB=1.0"],
    "all": [
        "INPUT.MOSAIC.PROB=0.5",
        "INPUT.COPY_PASTE.PROB=0.5",
        "INPUT.SCALE_JITTER.ENABLED=True",
        "INPUT.SCALE_JITTER.MIN_SCALE=0.7",
        "INPUT.SCALE_JITTER.SIZE=[200, 150]",
    ],
}


# Pixels of a fifth of the largest object.
DROPPED = {"mosaic": 400, "paste": 1200, "all": 1200}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_masks_and_boxes_follow_the_pixels(records, name):
    found = samples(config(*AUGMENTATIONS[name]), records)
    assert sum(check_masks(record, DROPPED.get(name, 0)) for record in found) >= 12


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_semantic_maps_follow_the_pixels(records, name):
    cfg = config(*AUGMENTATIONS[name], name="htc/htc_hrnetv2p_w18_20e_coco")
    for record in samples(cfg, records):
        check_masks(record, DROPPED.get(name, 0))
        labels = record["sem_seg"].numpy()
        assert labels.shape == tuple(record["image"].shape[1:])
        for category in range(len(COLORS)):
            pixels = painted(record["image"], category)
            # The edge of an object that is pasted over one of its class is mixed.
            seam = 60 if name in ("paste", "all") else 0
            assert differing(labels == category, pixels) <= seam
            assert differing(pixels, labels == category) <= seam
        outside = (record["image"].numpy() == 128).all(0) | (record["image"].numpy() == 114).all(0)
        assert (labels[cv2.erode(outside.astype(np.uint8), np.ones((5, 5))) > 0] == 255).all()


@pytest.mark.parametrize("name", ["crop", "around", "scale", "mosaic"])
def test_boxes_without_masks_follow_the_pixels(records, name):
    """The rectangles, whose pixels fill their boxes."""
    cfg = config(*AUGMENTATIONS[name], name="faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco")
    found = 0
    for record in samples(cfg, records):
        instances = record["instances"]
        for category, box in zip(instances.gt_classes.tolist(), instances.gt_boxes, strict=True):
            if category % 2:
                x1, y1, x2, y2 = np.round(box.numpy()).astype(int)
                inside = painted(record["image"], category)[y1:y2, x1:x2]
                assert inside[1:-1, 1:-1].all()
                found += 1
    assert found >= 6


def test_pasted_objects_cover_others(records):
    """Covered parts leave the masks; objects of which little is left are dropped."""
    cfg = config(*AUGMENTATIONS["paste"], "INPUT.COPY_PASTE.MAX_OBJECTS=1")
    counts = {len(record["instances"]) for record in samples(cfg, records, 20)}
    assert 3 in counts and counts <= {2, 3}
    for record in samples(cfg, records, 20):
        masks = record["instances"].gt_masks.tensor
        assert masks.sum(dim=0).max() <= 1 or len(set(record["instances"].gt_classes.tolist())) < 3


def test_boxes_are_pasted_where_there_are_no_segmentations(records):
    cfg = config(*AUGMENTATIONS["paste"], name="fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco")
    for record in records:
        for annotation in record["annotations"]:
            del annotation["segmentation"]
    pasted = [r for r in samples(cfg, records) if len(r["instances"]) > 2]
    assert pasted and all(record["image"].shape[1:] == (H, W) for record in pasted)


def test_crops_have_the_center_of_an_object(records):
    crop = CropAroundObject("absolute", (30, 40))
    boxes = np.array([[10.0, 10, 20, 20], [100, 80, 150, 110], [-90, 0, -80, 9]])
    seen = set()
    for seed in range(40):
        seed_all_rng(seed)
        part = crop.get_transform(np.zeros((H, W, 3), np.uint8), boxes)
        assert (part.w, part.h) == (40, 30)
        inside = [
            part.x0 <= (x1 + x2) / 2 <= part.x0 + 40 and part.y0 <= (y1 + y2) / 2 <= part.y0 + 30
            for x1, y1, x2, y2 in boxes
        ]
        assert any(inside)
        seen.add(inside.index(True))
    assert seen == {0, 1}
    assert isinstance(crop.get_transform(np.zeros((H, W)), boxes[:0]), ClippingCrop)


def test_polygons_are_clipped_as_pixels_are():
    rng = np.random.RandomState(0)
    for _ in range(50):
        # Stars, which a window may cut into pieces.
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radii = rng.uniform(10, 60, 9)
        star = np.stack([80 + radii * np.cos(angles), 60 + radii * np.sin(angles)], axis=1)
        x1, y1 = rng.randint(0, 90), rng.randint(0, 70)
        crop = ClippingCrop(x1, y1, rng.randint(20, 70), rng.randint(20, 50))
        whole = mask_util.decode(mask_util.frPyObjects([star.ravel().tolist()], H, W))[:, :, 0]
        expected = crop.apply_image(whole) > 0
        parts = crop.apply_polygons([star])
        assert len(parts) == (1 if expected.sum() > 20 else len(parts))
        for part in parts:
            assert part.min() >= 0 and (part.max(axis=0) <= (crop.w, crop.h)).all()
            size = crop.h, crop.w
            found = mask_util.decode(mask_util.frPyObjects([part.ravel().tolist()], *size))[..., 0]
            border = cv2.morphologyEx(
                expected.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))
            )
            assert (((found > 0) == expected) | (border > 0)).all()


def test_polygons_outside_or_without_area_are_left_out():
    crop = ClippingCrop(10, 10, 20, 20)
    inside, outside = (
        np.array([[12, 12], [20, 12], [12, 20.0]]),
        np.array([[0, 0], [9, 0], [0, 9.0]]),
    )
    touching = np.array([[0, 0], [10, 0], [10, 40], [0, 40.0]])
    (kept,) = crop.apply_polygons([inside, outside, touching])
    assert np.array_equal(kept, inside - 10)
    assert len(clip_polygon(outside, (10, 10, 30, 30))) == 0


def test_polygon_masks_are_cropped_without_shapely(records):
    if isinstance(records[0]["annotations"][0]["segmentation"], dict):
        pytest.skip("Detectron2's polygon format has no encodings")
    cfg = config(*AUGMENTATIONS["crop"], "INPUT.MASK_FORMAT=polygon")
    for record in samples(cfg, records):
        h, w = record["instances"].image_size
        for polygons in record["instances"].gt_masks.polygons:
            points = np.concatenate([p.reshape(-1, 2) for p in polygons])
            assert points.min() >= 0 and (points.max(axis=0) <= (w + 1e-6, h + 1e-6)).all()


def test_colors_change_and_gray_stays_gray():
    cfg = config("INPUT.COLOR_JITTER.SATURATION=0.4", "INPUT.RANDOM_FLIP=none")
    (saturation,) = build_augmentation(cfg, True)[1:]
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., :] = (160, 90, 120)  # BGR
    seed_all_rng(1)
    changed = saturation.get_transform(image).apply_image(image)[0, 0].astype(float)
    gray = 0.114 * 160 + 0.587 * 90 + 0.299 * 120
    ratio = (changed - gray) / (image[0, 0] - gray)
    assert np.ptp(ratio) < 0.1 and abs(ratio[0] - 1) > 0.05
    keys = [f"INPUT.COLOR_JITTER.{k}=0.3" for k in ("BRIGHTNESS", "CONTRAST")]
    kinds = [type(a) for a in build_augmentation(config(*keys), True)[2:]]
    assert kinds == [T.RandomBrightness, T.RandomContrast]


def test_nothing_but_resize_at_test():
    cfg = config(*AUGMENTATIONS["all"], "INPUT.COLOR_JITTER.CONTRAST=0.3")
    assert len(build_augmentation(cfg, False)) == 1
    assert HRNetDatasetMapper(cfg, False).mixing is None


@pytest.mark.parametrize(
    "keys, message",
    [
        (["INPUT.MOSAIC.PROB=1.5"], "from 0 to 1"),
        (["INPUT.COPY_PASTE.PROB=0.5", "INPUT.MASK_FORMAT=polygon"], "'bitmask'"),
        (["INPUT.SCALE_JITTER.ENABLED=True", "INPUT.SCALE_JITTER.MIN_SCALE=3.0"], "above its MAX"),
        (["INPUT.CROP.ENABLED=True", "INPUT.CROP.SIZE=[50, 60]"], "at most 1"),
        (["INPUT.SCALE_JITTER.SIZE=[0, 5]"], "a height and a width"),
        (["INPUT.COLOR_JITTER.BRIGHTNESS=-1.0"], "BRIGHTNESS"),
    ],
)
def test_values_that_cannot_work_are_named(keys, message):
    with pytest.raises(ConfigError, match=message):
        config(*keys)


def test_a_mapper_without_other_images_says_what_to_do(records):
    mapper = HRNetDatasetMapper(config(*AUGMENTATIONS["mosaic"]), True)
    with pytest.raises(ValueError, match="mix_with"):
        mapper(records[0])


def test_a_resumed_loader_mixes_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setenv("HRNET_D2_CACHE", str(tmp_path / "cache"))
    cfg = config(*AUGMENTATIONS["all"], "SOLVER.IMS_PER_BATCH=2", "DATALOADER.NUM_WORKERS=1")
    cfg.SEED = 7
    configure(cfg, layouts.write_yolo(tmp_path / "data", polygons=True))
    whole = build_train_loader(cfg)
    state = stream_of(whole).state_dict()
    batches = list(itertools.islice(iter(whole), 6))
    resumed = build_train_loader(cfg)
    assert stream_of(resumed).resume(state, 4) is None
    for expected, found in zip(batches[4:], resumed, strict=False):
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
            assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
