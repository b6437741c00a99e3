import copy
import pickle

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from fvcore.transforms.transform import CropTransform, HFlipTransform

from hrnet_d2.data import (
    HRNetDatasetMapper,
    ImageReadError,
    InferenceInput,
    OpenCVResizeTransform,
    SizeMismatchError,
)
from hrnet_d2.data.masks import rasterize

TRIANGLE = [[30.5, 4.25, 52.0, 33.75, 11.2, 28.0]]


@pytest.fixture
def record(coco):
    return {
        "file_name": str(coco.images / "0.jpg"),
        "height": 40,
        "width": 60,
        "image_id": 10,
        "annotations": [
            annotation([11.2, 4.25, 40.8, 29.5], TRIANGLE),
            annotation([5, 5, 20, 10], [[5, 5, 25, 5, 25, 15, 5, 15], [40, 30, 50, 30, 45, 38]], 1),
        ],
    }


def annotation(box, segmentation=None, category=0, **more):
    result = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, **more}
    return result if segmentation is None else {**result, "segmentation": segmentation}


def slow_mask(segmentation, new_h, new_w, flip):
    """MMDetection's steps, spelt out: bitmap at the file's size, nearest pixel, mirror."""
    h, w = 40, 60
    bitmap = np.zeros((h, w), bool)
    for polygon in segmentation:
        bitmap |= mask_util.decode(mask_util.frPyObjects([polygon], h, w))[:, :, 0].astype(bool)
    result = np.zeros((new_h, new_w), bool)
    for y in range(new_h):
        for x in range(new_w):
            result[y, x] = bitmap[int(y * (h / new_h)), int(x * (w / new_w))]
    return result[:, ::-1] if flip else result


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [64, 27, 40])
def test_masks_are_rasterized_at_the_size_of_the_file(cfg, record, size, flip):
    cfg.MODEL.MASK_ON = True
    mapper = HRNetDatasetMapper(cfg, True)
    new_h, new_w = size, int(60 * size / 40 + 0.5)
    transforms = [OpenCVResizeTransform(40, 60, new_h, new_w)] + [HFlipTransform(new_w)] * flip
    mapper.augmentations = T.AugmentationList(transforms)
    result = mapper(record)
    instances = result["instances"]
    assert instances.image_size == (new_h, new_w) == tuple(result["image"].shape[1:])
    assert isinstance(instances.gt_masks, BitMasks)
    for mask, source in zip(instances.gt_masks.tensor, record["annotations"], strict=True):
        expected = slow_mask(source["segmentation"], new_h, new_w, flip)
        np.testing.assert_array_equal(mask.numpy(), expected)

    image = cv2.cvtColor(cv2.imread(record["file_name"]), cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    expected = image[:, ::-1] if flip else image
    np.testing.assert_array_equal(result["image"].numpy().transpose(1, 2, 0), expected)
    assert result["image"].dtype == torch.uint8 and result["image"].is_contiguous()

    sx, sy = new_w / 60, new_h / 40
    boxes = np.array(
        [[11.2 * sx, 4.25 * sy, 52 * sx, 33.75 * sy], [5 * sx, 5 * sy, 25 * sx, 15 * sy]]
    )
    if flip:
        boxes = np.stack([new_w - boxes[:, 2], boxes[:, 1], new_w - boxes[:, 0], boxes[:, 3]], 1)
    np.testing.assert_allclose(instances.gt_boxes.tensor.numpy(), boxes, rtol=1e-6)
    assert instances.gt_classes.tolist() == [0, 1]


def test_masks_differ_from_detectron2s(cfg, record):
    """Stock rasterises at the network's resolution: another border."""
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (97,), 1000
    ours = HRNetDatasetMapper(cfg, True)(record)["instances"].gt_masks.tensor
    stock = DatasetMapper(cfg, True)(copy.deepcopy(record))["instances"].gt_masks.tensor
    assert ours.shape == stock.shape
    assert (ours != stock).any()
    assert (ours != stock).float().mean() < 0.03


def test_whole_numbers_are_scaled_without_cutting_fractions(cfg, record):
    cfg.INPUT.MIN_SIZE_TRAIN = (55,)
    for backend in ("opencv", "detectron2"):
        cfg.INPUT.BACKEND = backend
        record["annotations"] = [annotation([5, 5, 20, 10])]
        box = HRNetDatasetMapper(cfg, True)(record)["instances"].gt_boxes.tensor[0]
        factors = torch.tensor([83 / 60, 55 / 40]).repeat(2)
        torch.testing.assert_close(box, torch.tensor([5.0, 5, 25, 15]) * factors)


def test_run_length_encodings_and_bitmaps(cfg, record):
    cfg.MODEL.MASK_ON = True
    bitmap = rasterize(TRIANGLE, 40, 60)
    compressed = mask_util.encode(np.asfortranarray(bitmap))
    runs = np.flatnonzero(np.diff(np.concatenate([[0], bitmap.T.reshape(-1)]))) + 0
    counts = np.diff(np.concatenate([[0], runs, [bitmap.size]])).tolist()
    uncompressed = {"size": [40, 60], "counts": counts}
    box = [11.2, 4.25, 40.8, 29.5]
    record["annotations"] = [
        annotation(box, s) for s in (TRIANGLE, compressed, uncompressed, bitmap.astype(bool))
    ]
    masks = HRNetDatasetMapper(cfg, True)(record)["instances"].gt_masks.tensor
    for mask in masks:
        np.testing.assert_array_equal(mask.numpy(), bitmap.astype(bool))


def test_polygon_format_is_stock(cfg, record):
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "polygon"
    before = copy.deepcopy(record)
    masks = HRNetDatasetMapper(cfg, True)(record)["instances"].gt_masks
    assert isinstance(masks, PolygonMasks) and len(masks) == 2
    assert record == before


def test_detectron2_backend_is_stock(cfg, record):
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.BACKEND = "detectron2"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (71,), 1000
    record["annotations"][1]["bbox"] = [5.0, 5.0, 20.0, 10.0]
    ours = HRNetDatasetMapper(cfg, True)(record)
    stock = DatasetMapper(cfg, True)(record)
    torch.testing.assert_close(ours["image"], stock["image"], rtol=0, atol=0)
    a, b = ours["instances"], stock["instances"]
    torch.testing.assert_close(a.gt_boxes.tensor, b.gt_boxes.tensor)
    assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)


def test_no_masks_where_the_model_has_none(cfg, record):
    assert not HRNetDatasetMapper(cfg, True)(record)["instances"].has("gt_masks")


def test_small_outside_and_crowd_boxes_are_dropped(cfg, record):
    record["annotations"] = [
        annotation([1, 1, 1, 1], category=0),
        annotation([1, 1, 0.99, 5], category=1),
        annotation([1, 1, 5, 0.99], category=2),
        annotation([60, 1, 5, 5], category=3),
        annotation([-5, 1, 5, 5], category=4),
        annotation([-5, 1, 6.5, 5], category=5),
        annotation([5, 5, 9, 9], category=6, iscrowd=1),
        {"bbox": [2, 2, 2.5, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 7},
        {"bbox": [2, 2, 3.5, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 8},
    ]
    instances = HRNetDatasetMapper(cfg, True)(record)["instances"]
    assert instances.gt_classes.tolist() == [0, 5, 8]
    torch.testing.assert_close(instances.gt_boxes.tensor[1], torch.tensor([0.0, 1, 1.5, 6]))
    cfg.INPUT.MIN_BOX_SIZE = 0.0
    instances = HRNetDatasetMapper(cfg, True)(record)["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2, 5, 7, 8]  # empty after clipping: 3, 4


def test_size_is_measured_before_the_resize(cfg, record):
    cfg.INPUT.MIN_SIZE_TRAIN = (400,)
    record["annotations"] = [annotation([1, 1, 0.5, 5]), annotation([1, 1, 1.5, 5])]
    assert len(HRNetDatasetMapper(cfg, True)(record)["instances"]) == 1
    cfg.INPUT.MIN_SIZE_TRAIN = (10,)
    assert len(HRNetDatasetMapper(cfg, True)(record)["instances"]) == 1


@pytest.mark.parametrize("mask_on", [False, True])
def test_image_without_objects(cfg, record, mask_on):
    cfg.MODEL.MASK_ON = mask_on
    record["annotations"] = []
    instances = HRNetDatasetMapper(cfg, True)(record)["instances"]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.has("gt_masks") == mask_on


def test_crop_recomputes_boxes_from_masks(cfg, record):
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [20, 20]
    mapper = HRNetDatasetMapper(cfg, True)
    mapper.augmentations = T.AugmentationList([CropTransform(0, 0, 20, 40)])
    instances = mapper(record)["instances"]
    assert instances.image_size == (40, 20)
    boxes = instances.gt_boxes.tensor
    assert torch.equal(boxes, instances.gt_masks.get_bounding_boxes().tensor)
    assert boxes[:, 2].max() <= 20


def test_test_mapper_keeps_no_annotations(cfg, record):
    cfg.INPUT.MIN_SIZE_TEST = 64
    record["sem_seg_file_name"] = "nowhere.png"
    result = HRNetDatasetMapper(cfg, False)(record)
    assert set(result) == {"file_name", "height", "width", "image_id", "image"}
    assert tuple(result["image"].shape) == (3, 64, 96)
    assert (result["height"], result["width"]) == (40, 60)


def test_record_is_left_alone(cfg, record):
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    before = copy.deepcopy(record)
    HRNetDatasetMapper(cfg, True)(record)
    HRNetDatasetMapper(cfg, False)(record)
    assert record == before


def test_workers_can_be_spawned(cfg):
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    mapper = pickle.loads(pickle.dumps(HRNetDatasetMapper(cfg, True)))
    assert mapper.backend == "opencv"


def test_network_normalizes_uint8_like_float32():
    class Network:
        device = torch.device("cpu")
        pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
        pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
        backbone = type("Backbone", (), {"size_divisibility": 32, "padding_constraints": {}})()
        _move_to_current_device = GeneralizedRCNN._move_to_current_device
        preprocess_image = GeneralizedRCNN.preprocess_image

    image = torch.arange(256, dtype=torch.uint8).expand(3, 4, 256)
    outputs = [
        Network().preprocess_image([{"image": i}]).tensor for i in (image, image.to(torch.float32))
    ]
    assert outputs[0].dtype == torch.float32
    assert torch.equal(*outputs)


# Errors.


def test_missing_image(cfg, record):
    record["file_name"] += ".gone"
    with pytest.raises(FileNotFoundError, match="0.jpg.gone"):
        HRNetDatasetMapper(cfg, True)(record)


def test_size_mismatch(cfg, record):
    record["width"] = 61
    with pytest.raises(SizeMismatchError, match="0.jpg is 60 x 40.*says 61 x 40"):
        HRNetDatasetMapper(cfg, True)(record)


def test_object_without_segmentation(cfg, record):
    cfg.MODEL.MASK_ON = True
    del record["annotations"][1]["segmentation"]
    with pytest.raises(ValueError, match=r"0\.jpg have no segmentation .*box \[5.*faster_rcnn"):
        HRNetDatasetMapper(cfg, True)(record)


def test_bad_segmentations(cfg, record):
    cfg.MODEL.MASK_ON = True
    record["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="0.jpg: a polygon has 4 numbers"):
        HRNetDatasetMapper(cfg, True)(record)
    other = mask_util.encode(np.zeros((40, 50), np.uint8, order="F"))
    record["annotations"][0]["segmentation"] = other
    with pytest.raises(ValueError, match="0.jpg: the mask.*50 x 40.*60 x 40"):
        HRNetDatasetMapper(cfg, True)(record)


# Semantic maps.


@pytest.fixture
def htc(cfg):
    cfg.MODEL.META_ARCHITECTURE = "HybridTaskCascade"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    return cfg


@pytest.fixture
def labels(record, tmp_path):
    """The labels, in the file that the record names."""
    labels = np.random.RandomState(0).randint(0, 8, (40, 60)).astype(np.uint8)
    labels[:5] = 255
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    cv2.imwrite(record["sem_seg_file_name"], labels)
    return labels


@pytest.mark.parametrize("flip", [False, True])
def test_semantic_map(htc, record, labels, flip):
    htc.INPUT.RANDOM_FLIP = "horizontal" if flip else "none"
    mapper = HRNetDatasetMapper(htc, True)
    if flip:
        mapper.augmentations.augs[1].prob = 1.0
    result = mapper(record)
    rows, columns = np.arange(64) * 40 // 64, np.arange(96) * 60 // 96
    expected = labels[rows][:, columns]
    expected = expected[:, ::-1] if flip else expected
    assert result["sem_seg"].dtype == torch.int64
    np.testing.assert_array_equal(result["sem_seg"].numpy(), expected)
    assert "sem_seg_file_name" not in result


def test_semantic_map_is_read_only_for_its_branch(htc, record, labels):
    assert "sem_seg" in HRNetDatasetMapper(htc, True)(record)
    assert "sem_seg" not in HRNetDatasetMapper(htc, False)(record)
    htc.MODEL.HTC.SEMANTIC_ON = False
    assert "sem_seg" not in HRNetDatasetMapper(htc, True)(record)
    htc.MODEL.HTC.SEMANTIC_ON = True
    htc.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert "sem_seg" not in HRNetDatasetMapper(htc, True)(record)


def test_image_without_a_map(htc, record):
    assert "sem_seg" not in HRNetDatasetMapper(htc, True)(record)


def test_bad_maps(htc, record, labels):
    path = record["sem_seg_file_name"]
    mapper = HRNetDatasetMapper(htc, True)
    cv2.imwrite(path, np.full((40, 60), 9, np.uint8))
    with pytest.raises(ImageReadError, match=r"labels.png has the labels \[9\].*NUM_CLASSES"):
        mapper(record)
    cv2.imwrite(path, labels[:, :50])
    with pytest.raises(ImageReadError, match="labels.png is 50 x 40.*0.jpg is 60 x 40"):
        mapper(record)
    record["sem_seg_file_name"] = path + ".gone"
    with pytest.raises(FileNotFoundError, match="labels.png.gone of image.*SEMANTIC_ON False"):
        mapper(record)


# Images in memory.


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
@pytest.mark.parametrize("size", [0, 33, 64])
def test_inference_input_equals_the_test_loader(cfg, coco, tmp_path, image_format, backend, size):
    cfg.INPUT.FORMAT, cfg.INPUT.BACKEND, cfg.INPUT.MIN_SIZE_TEST = image_format, backend, size
    image = np.random.RandomState(3).randint(0, 256, (40, 60, 3)).astype(np.uint8)
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, image)
    expected = HRNetDatasetMapper(cfg, False)({"file_name": path})
    to_input = InferenceInput(cfg)
    result = to_input(image)
    assert torch.equal(result["image"], expected["image"])
    assert (result["height"], result["width"]) == (40, 60)
    padded = to_input.padded_size((40, 60), 32)
    assert padded == tuple(-(-s // 32) * 32 for s in result["image"].shape[1:])
    assert to_input.padded_size((40, 60), 0) == tuple(result["image"].shape[1:])


def test_inference_input_refuses(cfg):
    to_input = InferenceInput(cfg)
    with pytest.raises(TypeError, match="NoneType.*cv2.imread"):
        to_input(None)
    with pytest.raises(ValueError, match=r"\(4, 5\).*COLOR_GRAY2BGR"):
        to_input(np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"\(4, 5, 4\)"):
        to_input(np.zeros((4, 5, 4), np.uint8))
    with pytest.raises(ValueError, match="empty"):
        to_input(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(TypeError, match="float32"):
        to_input(np.zeros((4, 5, 3), np.float32))
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ValueError, match="INPUT.FORMAT 'L'"):
        InferenceInput(cfg)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_images_of_a_pixel_with_negative_strides(cfg, order):
    cfg.INPUT.FORMAT = order
    image = np.arange(3, dtype=np.uint8).reshape(1, 1, 3)[::-1, ::-1]
    assert min(image.strides) < 0
    tensor = InferenceInput(cfg)(image)["image"]
    assert tensor.flatten().tolist() == ([0, 1, 2] if order == "BGR" else [2, 1, 0])
