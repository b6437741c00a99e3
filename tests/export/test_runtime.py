"""The runtime by itself: no PyTorch, and the same images and masks as the package's."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image

from hrnet_d2 import model_zoo
from hrnet_d2.data import InferenceInput
from hrnet_d2.export import runtime
from hrnet_d2.modeling.mmdet1.boxes import resize_factor
from hrnet_d2.modeling.mmdet1.masks import paste_masks

SIZES = [(370, 620), (620, 370), (480, 640), (33, 45), (97, 301), (800, 1333), (256, 256)]


def settings(cfg, **changes):
    entry = {
        "format": cfg.INPUT.FORMAT,
        "resize": cfg.INPUT.BACKEND,
        "short_edge": cfg.INPUT.MIN_SIZE_TEST,
        "long_edge": cfg.INPUT.MAX_SIZE_TEST,
        "size_divisibility": 32,
    }
    return {
        "format_version": 1,
        "format": "onnx",
        "graph": "detector.onnx",
        "arithmetic": "mmdet2",
        "classes": ["cat"],
        "score_thresh": 0.05,
        "input": entry,
        **changes,
    }


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_the_input_is_the_predictors(backend, channels):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    cfg.defrost()
    cfg.INPUT.BACKEND, cfg.INPUT.FORMAT = backend, channels
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 200, 333
    detector = runtime.Detector(settings(cfg), lambda inputs: [])
    prepare = InferenceInput(cfg)
    for height, width in SIZES:
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        made, expected = detector.prepare(image), prepare(image)["image"].numpy()
        assert made["size"].tolist() == list(expected.shape[1:])
        inside = made["images"][0, :, : expected.shape[1], : expected.shape[2]]
        np.testing.assert_array_equal(inside, expected)
        assert all(side % 32 == 0 for side in made["images"].shape[2:])
        assert made["images"].sum() == expected.sum()


def test_the_resize_factor_of_1x_is_the_packages():
    entry = {"short_edge": 200, "long_edge": 333}
    for original in SIZES:
        scale = min(333 / max(original), 200 / min(original))
        resized = tuple(int(side * scale + 0.5) for side in original)
        for size in (resized, (190, 300)):
            expected = resize_factor(original, size, 200, 333)
            assert runtime._resize_factor(original, size, entry) == expected


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    coarse = rng.random((12, 7, 7), dtype=np.float32)
    masks = np.stack([cv2.resize(mask, (28, 28)) for mask in coarse])
    low = rng.uniform(0, 60, (12, 2))
    boxes = np.concatenate((low, low + rng.uniform(0.5, 70, (12, 2))), axis=1).astype(np.float32)
    boxes[0] = 0, 0, 120, 90
    return masks, boxes.clip(0, [[120, 90, 120, 90]]).astype(np.float32)


def test_masks_are_pasted_as_detectron2_does(masks):
    masks, boxes = masks
    made = runtime._paste_masks(masks, boxes, (90, 120))
    tensors = torch.from_numpy(masks), torch.from_numpy(boxes)
    expected = paste_masks_in_image(*tensors, (90, 120)).numpy()
    assert expected.any(axis=(1, 2)).sum() >= 10
    assert (made != expected).sum() <= 2  # pixels whose value is the threshold to rounding


def test_masks_are_pasted_as_1x_does(masks):
    masks, boxes = masks
    made = runtime._paste_masks_mmdet1(masks, boxes, (90, 120))
    expected = paste_masks(torch.from_numpy(masks), torch.from_numpy(boxes), (90, 120)).numpy()
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (None, TypeError, "got NoneType"),
        (np.zeros((4, 4), np.uint8), ValueError, "must have the shape"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((4, 4, 3), np.float32), TypeError, "uint8"),
    ],
)
def test_what_is_no_image_is_named(image, error, words):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    detector = runtime.Detector(settings(cfg), lambda inputs: [])
    with pytest.raises(error, match=words):
        detector(image)
    with pytest.raises(error, match=f"image 0 of 1: .*{words}"):
        detector([image])


def test_it_imports_neither_torch_nor_the_package(tmp_path):
    """In a process that has no torch, Detectron2 or hrnet_d2 to import."""
    target = tmp_path / "detector.py"
    target.write_text(Path(runtime.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    code = (
        "import sys\n"
        "for name in ('torch', 'detectron2', 'hrnet_d2'): sys.modules[name] = None\n"
        "import detector\n"
        "print(detector.Detector)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "detector.Detector" in done.stdout


def test_folders_that_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="no exported detector"):
        runtime.load(tmp_path)
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings(cfg, format_version=99)))
    with pytest.raises(ValueError, match="format version 99"):
        runtime.load(tmp_path)
    file.write_text(json.dumps(settings(cfg)))
    with pytest.raises(ValueError, match="dtype is for OpenVINO"):
        runtime.load(tmp_path, dtype="bfloat16")


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is not None, reason="is installed")
def test_a_missing_runtime_is_named(tmp_path):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    (tmp_path / "settings.json").write_text(json.dumps(settings(cfg)))
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        runtime.load(tmp_path)
