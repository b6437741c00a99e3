"""Detectron2's ``DefaultPredictor`` made exact, with our files and MMDetection's."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

import hrnet_d2
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.data import build_augmentation
from hrnet_d2.engine import ExactPredictor
from hrnet_d2.modeling import build_model
from tests.engine.tiny import tiny_config


@pytest.fixture(scope="module", params=["RGB", "BGR"])
def config(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("exact")
    cfg = tiny_config(folder, "INPUT.FORMAT", request.param, "MODEL.DEVICE", "cpu")
    torch.manual_seed(0)
    Checkpointer(build_model(cfg), str(folder)).save("model")
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    return cfg


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return cv2.resize(noise, (200, 150), interpolation=cv2.INTER_CUBIC)


def assert_equal(a, b):
    a, b = a["instances"], b["instances"]
    assert len(a) == len(b) > 0 and a.image_size == b.image_size
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.scores, b.scores) and torch.equal(a.pred_classes, b.pred_classes)


def test_equals_the_predictor(config, image):
    exact = ExactPredictor(config)
    assert isinstance(exact, DefaultPredictor)
    assert_equal(exact(image), hrnet_d2.Predictor(config, optimize=False)(image))
    assert_equal(
        exact(image[:64, :64]), hrnet_d2.Predictor(config, optimize=False)(image[:64, :64])
    )


def test_detectron2s_own_with_our_resize(config, image):
    """As the documentation shows it, for a file that Detectron2 can load."""
    predictor = DefaultPredictor(config)
    expected = hrnet_d2.Predictor(config, optimize=False)(image)
    scores = predictor(image)["instances"].scores[:5]
    assert not torch.equal(scores, expected["instances"].scores[:5])  # Pillow's resize
    (predictor.aug,) = build_augmentation(config, is_train=False)
    assert_equal(predictor(image), expected)


def test_a_file_that_detectron2_cannot_load(config, image, tmp_path):
    """MMDetection's layout: "meta" and "state_dict"."""
    state = torch.load(config.MODEL.WEIGHTS, weights_only=True)["model"]
    path = tmp_path / "mmdet.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, path)
    cfg = config.clone()
    cfg.MODEL.WEIGHTS = str(path)
    with pytest.raises(ValueError, match="meta"):
        DefaultPredictor(cfg)
    assert_equal(ExactPredictor(cfg)(image), ExactPredictor(config)(image))


def test_what_cannot_work_is_said(config):
    cfg = config.clone()
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match="MODEL.WEIGHTS"):
        ExactPredictor(cfg)
    cfg = config.clone()
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ValueError, match="INPUT.FORMAT"):
        ExactPredictor(cfg)
