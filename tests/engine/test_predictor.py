import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import hrnet_d2
from tests.engine.tiny import tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor")
    cfg = tiny_config(folder, "DATASETS.TEST", "('shapes_val',)")
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    return cfg


@pytest.fixture(scope="module")
def predictor(config):
    return hrnet_d2.Predictor(config)


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(a, b):
    a, b = a["instances"], b["instances"]
    assert a.image_size == b.image_size and len(a) == len(b)
    torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(a.pred_classes, b.pred_classes)


def test_one_image_gives_one_output(predictor):
    output = predictor(image(50, 70))
    assert output["instances"].image_size == (50, 70)
    assert len(output["instances"]) > 0


def test_a_list_gives_each_its_own_in_order(predictor):
    images = [image(h, w, i) for i, (h, w) in enumerate([(64, 96), (96, 64), (64, 90), (64, 96)])]
    outputs = predictor(images)
    assert len(outputs) == 4
    for single, output in zip(images, outputs, strict=True):
        assert_same(predictor(single), output)
    assert predictor([]) == []


def test_batches_share_their_padded_size(config):
    predictor = hrnet_d2.Predictor(config, batch_size=2)
    batches, run = [], predictor._predict
    predictor._predict = lambda inputs: batches.append(len(inputs)) or run(inputs)
    predictor([image(64, 96), image(96, 64), image(64, 90), image(64, 96)])
    assert sorted(batches) == [1, 1, 2]


def test_equals_the_model_on_the_resized_image(config, predictor):
    picture = image(64, 96)
    model = build_model(config).eval()
    hrnet_d2.checkpoint.Checkpointer(model).load(config.MODEL.WEIGHTS)
    rgb = torch.from_numpy(picture[:, :, ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        expected = model([{"image": rgb, "height": 64, "width": 96}])[0]
    assert_same(expected, predictor(picture))


@pytest.mark.parametrize(
    "bad, kind, message",
    [
        (np.zeros((8, 8), np.uint8), ValueError, "gray"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, "alpha"),
        (np.zeros((8, 8, 3), np.float32), TypeError, "uint8"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "empty"),
        (None, TypeError, "None"),
        ("photo.jpg", TypeError, "str"),
    ],
)
def test_what_is_no_image_is_said(predictor, bad, kind, message):
    with pytest.raises(kind, match=message):
        predictor(bad)
    with pytest.raises(kind, match="image 1 of 2"):
        predictor([image(8, 8), bad])


def test_no_weights_is_said(config):
    config = config.clone()
    config.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match="MODEL.WEIGHTS"):
        hrnet_d2.Predictor(config)


def test_class_names(config, predictor):
    assert predictor.metadata.thing_classes == ["circle", "square", "triangle", "star"]
    config = config.clone()
    config.DATASETS.TEST = ("not_registered_here",)
    config.DATASETS.CLASS_NAMES = ["cat", "dog"]
    assert hrnet_d2.Predictor(config).metadata.thing_classes == ["cat", "dog"]
