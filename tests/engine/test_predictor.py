import itertools
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

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


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_an_image_at_least(config, size):
    with pytest.raises(ValueError, match=f"at least 1; got {size}"):
        hrnet_d2.Predictor(config, batch_size=size)


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
        (Image.new("I;16", (8, 8)), ValueError, "more than 8 bits"),
        (Image.new("RGB", (0, 8)), ValueError, "empty"),
        (7, TypeError, "int"),
    ],
)
def test_what_is_no_image_is_said(predictor, bad, kind, message):
    with pytest.raises(kind, match=message):
        predictor(bad)
    with pytest.raises(kind, match="image 1 of 2"):
        predictor([image(8, 8), bad])
    with pytest.raises(kind, match="image 1: "):
        list(predictor(iter([image(8, 8), bad])))


@pytest.mark.parametrize("kind", [str, Path])
def test_files_and_pillow_images(predictor, tmp_path, kind):
    picture = image(50, 70)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture)
    expected = predictor(picture)
    pillow = Image.open(path)
    for given in (kind(path), pillow, pillow.convert("RGBA")):
        assert_same(expected, predictor(given))
    for outputs in (predictor([kind(path), pillow]), list(predictor(iter((kind(path), pillow))))):
        assert len(outputs) == 2
        for output in outputs:
            assert_same(expected, output)
    with pytest.raises(FileNotFoundError, match="no image .*b.png"):
        predictor(kind(tmp_path / "b.png"))
    (tmp_path / "c.png").write_text("no image")
    with pytest.raises(hrnet_d2.data.ImageReadError, match="c.png"):
        predictor(kind(tmp_path / "c.png"))


def test_a_gray_pillow_image_is_as_its_file(predictor, tmp_path):
    Image.fromarray(image(40, 60)[:, :, 0]).save(tmp_path / "gray.png")
    with Image.open(tmp_path / "gray.png") as gray:
        assert gray.mode == "L"
        assert_same(predictor(tmp_path / "gray.png"), predictor(gray))


def test_an_endless_iterator_is_read_as_far_as_needed(config):
    predictor = hrnet_d2.Predictor(config, batch_size=3)
    given = []

    def endless():
        for i in itertools.count():
            given.append(i)
            yield image(64, 64 + 32 * (i % 2), i % 4)

    outputs = predictor(endless())
    assert given == []  # nothing is read before an output is asked for
    first = list(itertools.islice(outputs, 4))
    assert given == [0, 1, 2, 3, 4, 5]
    for i, output in enumerate(first):
        assert_same(predictor(image(64, 64 + 32 * (i % 2), i)), output)


def test_an_iterator_keeps_no_output(config):
    """Of many images, the outputs of one batch are held at once."""
    predictor = hrnet_d2.Predictor(config, batch_size=2)
    alive = weakref.WeakSet()
    most = 0
    for output in predictor(image(64, 64, i) for i in range(7)):
        most = max(most, len(alive))
        alive.add(output["instances"])
        del output
    assert most <= 1 and len(alive) <= 1
    assert list(predictor(iter(()))) == []


def test_a_long_list_of_files_is_read_in_parts(config, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), image(32, 32))
    predictor = hrnet_d2.Predictor(config, batch_size=1)
    held, run = [], predictor._in_batches
    monkeypatch.setattr(predictor, "_in_batches", lambda i: held.append(len(i)) or run(i))
    assert len(predictor([tmp_path / "a.png"] * 6)) == 6
    assert held == [4, 2]


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
