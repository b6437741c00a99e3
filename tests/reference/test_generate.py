"""The generator of the reference cases: what of it runs without MMDetection."""

import json
import subprocess
import sys
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from detectron2.modeling import build_model

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from tests.parity import FEATURE_TOLERANCE, FOLDER, load_case
from tests.reference import arrays, generate

SCRIPT = FOLDER / "generate.py"


def run(*arguments: str) -> subprocess.CompletedProcess:
    """The script as its readers run it: on its own, from another folder."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd="/"
    )


def test_its_cases_are_those_of_the_folder():
    names = {path.stem for path in FOLDER.glob("*.npz")}
    # Cases of files that bring their own settings are made from other code.
    own_settings = {name for name in names if "meta_config" in load_case(name).spec}
    assert set(generate.CASES) == names - own_settings
    for name, case in generate.CASES.items():
        spec = load_case(name).spec
        made = json.loads(json.dumps(asdict(case)))
        assert made.pop("config").split("/")[-1] == spec["mmdet_config"]
        assert made == {key: spec[key] for key in made}


@pytest.mark.parametrize("name", generate.CASES)
def test_its_image_and_ground_truth_are_the_stored_ones(name):
    case = load_case(name)
    image = arrays.resize(case.image, case.spec["scale"])
    np.testing.assert_array_equal(image, case.arrays["image_resized"])
    size = image.shape[:2]
    assert list(size) == case.spec["resized_size"]
    stored = case.arrays["gt_masks_packed"]
    np.testing.assert_array_equal(arrays.pack(arrays.unpack(stored, size[1])), stored)
    ellipses = arrays.inscribed_ellipses(case.arrays["gt_boxes"], size)
    np.testing.assert_array_equal(arrays.pack(ellipses), stored)
    truth = generate.ground_truth(generate.CASES[name], size)
    assert set(truth) == {key for key in case.arrays if key.startswith("gt_")}
    np.testing.assert_array_equal(truth["gt_boxes"], case.arrays["gt_boxes"])


@pytest.mark.parametrize("name", generate.CASES)
def test_samples_of_maps_have_the_stored_shapes(name):
    case = load_case(name)
    maps = {key: s["shape"] for key, s in case.spec["statistics"].items() if "shape" in s}
    assert len(maps) >= 9
    for key, shape in maps.items():
        step = 4 if key.startswith("semantic") else None
        made = arrays.sample(np.zeros(shape, np.float32), step)
        assert made.shape == case.arrays[key].shape, key


def test_samples_and_statistics_of_a_network_are_the_stored_ones(tmp_path):
    """Our network stands in for MMDetection's, which it equals."""
    case = load_case("faster_rcnn_hrnetv2p_w18")
    cfg = model_zoo.get_config("faster_rcnn_hrnetv2p_w18_1x_coco")
    cfg.defrost()
    case.configure(cfg)
    model = build_model(cfg).eval()
    Checkpointer(model).load(case.save_checkpoint(tmp_path / "case.pth"))
    images = model.preprocess_image(case.inputs(cfg)).tensor
    assert list(images.shape) == case.spec["statistics"]["input_shape"]
    levels = list(model.backbone(images).values())
    assert len(levels) == 5
    for index, level in enumerate(levels):
        feature = level.detach().numpy()
        expected = case.arrays[f"neck{index}"]
        error = np.abs(arrays.sample(feature) - expected).max() / np.abs(expected).max()
        assert error < FEATURE_TOLERANCE
        stored = case.spec["statistics"][f"neck{index}"]
        made = arrays.statistics(feature)
        assert made.keys() == stored.keys() and made["shape"] == stored["shape"]
        for key in ("mean", "std", "absmax"):
            assert made[key] == pytest.approx(stored[key], abs=1e-4 * stored["absmax"])


def test_new_ground_truth_is_like_the_stored():
    stored = load_case("htc_hrnetv2p_w18").arrays
    size = (352, 352)
    truth = arrays.draw_ground_truth(size, seed=1)
    other = arrays.draw_ground_truth(size, seed=2)
    assert not np.array_equal(truth["gt_boxes"], other["gt_boxes"])
    for key, value in truth.items():
        assert value.shape == stored[key].shape and value.dtype == stored[key].dtype, key
    boxes = truth["gt_boxes"]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 352).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 15).all()
    assert (truth["gt_semantic"][:32, :32] == 255).all() and (
        truth["gt_semantic"] == 255
    ).sum() == 1024
    masks = arrays.unpack(truth["gt_masks_packed"], size[1])
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        ys, xs = np.nonzero(mask)
        assert x0 <= xs.min() and xs.max() <= x1 and y0 <= ys.min() and ys.max() <= y1
        assert mask.sum() == pytest.approx(np.pi / 4 * (x1 - x0) * (y1 - y0), rel=0.12)


def test_what_it_writes_is_read_as_a_case(tmp_path, monkeypatch):
    spec = load_case("fcos_hrnetv2p_w18").spec | {"name": "copy"}
    content = {"image_resized": cv2.imread(str(FOLDER / "images" / "coffee.png"))[:8, :8]}
    generate.write(tmp_path / "new", spec, content)
    monkeypatch.setattr("tests.parity.FOLDER", tmp_path / "new")
    case = load_case("copy")
    assert case.spec == spec
    np.testing.assert_array_equal(case.arrays["image_resized"], content["image_resized"])


def test_as_a_script():
    assert "MMDetection 3.3" in run("--help").stdout
    assert run("--list").stdout.count("seed") == len(generate.CASES)
    for arguments, words in [
        (["faster_rcnn_hrnetv2p_w18"], "needs MMDetection 3.3.0"),
        (["no_such_case"], "no_such_case"),
        ([], "name cases of"),
        (["--all", "--seed", "3"], "--seed and --name"),
        (["fcos_hrnetv2p_w18", "--seed", "3", "--name", "htc_hrnetv2p_w18"], "another name"),
    ]:
        result = run(*arguments)
        assert result.returncode != 0 and words in result.stderr, arguments
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("width", [18, 40])
def test_an_hrnet_config_of_another_width(width):
    class Node(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__

    stages = {f"stage{i}": Node(num_channels=(32, 64, 128, 256)[:i]) for i in (2, 3, 4)}
    config = Node(backbone=Node(extra=Node(stages)), neck=Node(in_channels=[32, 64, 128, 256]))
    generate.set_width(config, width)
    assert config.neck.in_channels == [width, 2 * width, 4 * width, 8 * width]
    assert config.backbone.extra.stage3.num_channels == (width, 2 * width, 4 * width)
