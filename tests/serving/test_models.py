"""Answers are what Predictor returns, for every family and for exports."""

import hashlib
import io
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from PIL import Image

from hrnet_d2 import Predictor, export, model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.cli import main
from hrnet_d2.config_file import ConfigError
from hrnet_d2.evaluation.rle import encode_masks
from hrnet_d2.export import runtime
from hrnet_d2.serving import load_model
from tests.engine.tiny import TINY
from tests.serving.servers import serving

FAMILIES = {
    "faster_rcnn": "faster_rcnn_hrnetv2p_w18_1x_coco",
    "mask_rcnn": "mask_rcnn_hrnetv2p_w18_1x_coco",
    "cascade_rcnn": "cascade_rcnn_hrnetv2p_w18_20e_coco",
    "cascade_mask_rcnn": "cascade_mask_rcnn_hrnetv2p_w18_20e_coco",
    "htc": "htc_hrnetv2p_w18_20e_coco",
    "fcos": "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco",
}
SMALLER = [
    "MODEL.ROI_HEADS.NUM_CLASSES", "3",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "8",
    "MODEL.FCOS.NUM_CLASSES", "3",
    "MODEL.HTC.SEMANTIC_ON", "False",
    "MODEL.FCOS.SCORE_THRESH_TEST", "0.0",
    "DATASETS.CLASS_NAMES", "('ant', 'bee', 'cat')",
    "MODEL.DEVICE", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """From a family to a checkpoint of a small, untrained model."""
    folder = tmp_path_factory.mktemp("models")

    def make(family):
        path = folder / family
        if not path.is_dir():
            # FCOS' head normalizes 32 groups of several channels.
            wide = ["MODEL.HRNETV2P.NECK.OUT_CHANNELS", "64"] if family == "fcos" else []
            cfg = model_zoo.load_config(FAMILIES[family], [*TINY, *SMALLER, *wide])
            torch.manual_seed(1)
            Checkpointer(build_model(cfg), str(path), cfg=cfg).save("model_final")
        return str(path / "model_final.pth")

    return make


def photograph(seed=0, height=60, width=90):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return cv2.resize(noise, (width, height))


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def coco_of(instances):
    """What `predict` writes of an image: Detectron2's results, the classes counted from 1."""
    instances = instances.to("cpu")
    masks = encode_masks(instances.pred_masks) if instances.has("pred_masks") else None
    if masks is not None:
        instances.remove("pred_masks")
    found = instances_to_coco_json(instances, 1)
    for annotation in found:
        annotation["category_id"] += 1
    for annotation, mask in zip(found, masks or [], strict=False):
        annotation["segmentation"] = mask
    return json.loads(json.dumps(found))


QUICK = ("mask_rcnn", "fcos")


@pytest.mark.parametrize(
    "family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_answers_equal_those_of_predictor(family, checkpoint):
    """To the bit: boxes, scores, classes and run-length encodings."""
    path = checkpoint(family)
    predictor = Predictor(path)
    model = load_model(path)
    image = photograph()
    with serving(model) as client:
        answer = client.post(png(image)).json
    expected = coco_of(predictor(image)["instances"])
    assert len(expected) > 5
    assert [{key: a[key] for key in expected[0]} for a in answer["annotations"]] == expected
    assert ("segmentation" in expected[0]) == model.masks == predictor.cfg.MODEL.MASK_ON
    assert [c["name"] for c in answer["categories"]] == ["ant", "bee", "cat"]
    assert [c["id"] for c in answer["categories"]] == [1, 2, 3]


def test_options_override_the_config_of_a_checkpoint(checkpoint):
    model = load_model(checkpoint("fcos"), opts=["TEST.DETECTIONS_PER_IMAGE", "2"])
    assert len(model.detect([photograph()])[0]) == 2
    assert model.name == "fcos/model_final.pth" and not model.masks


def test_images_are_read_upright(checkpoint):
    """A JPEG whose Exif data turn it by 90 degrees: boxes are those of the image as it is seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, "JPEG", exif=exif)
    with serving(load_model(checkpoint("fcos"))) as client:
        (entry,) = client.post(file.getvalue()).json["images"]
    assert (entry["width"], entry["height"]) == (60, 90)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_an_exported_folder(checkpoint, tmp_path):
    folder = tmp_path / "exported"
    export.export(model_zoo.config_of(checkpoint("mask_rcnn")), folder, format="torchscript")
    model = load_model(str(folder), trusted=True)
    image = photograph()
    with serving(model) as client:
        answer = client.post(png(image)).json
    expected = coco_of(export.load(folder, trusted=True)(image)["instances"])
    assert [{key: a[key] for key in expected[0]} for a in answer["annotations"]] == expected
    assert [c["name"] for c in answer["categories"]] == ["ant", "bee", "cat"]
    assert model.masks and len(expected) > 5
    with pytest.raises(ConfigError, match="settings are fixed"):
        load_model(str(folder), opts=["MODEL.DEVICE", "cpu"])


@pytest.fixture
def folder(tmp_path):
    """From a format to an exported folder whose graph is no graph."""

    def make(format):
        size = {"short_edge": 800, "long_edge": 1333, "size_divisibility": 32}
        content = {
            "format_version": runtime.FORMAT_VERSION,
            "format": format,
            "graph": "graph",
            "files": {"graph": hashlib.sha256(b"no graph").hexdigest()},
            "outputs": list(runtime.OUTPUTS),
            "arithmetic": "mmdet2",
            "classes": ["ant"],
            "score_thresh": 0.05,
            "input": {"format": "BGR", "resize": "opencv", **size},
        }
        (tmp_path / "graph").write_bytes(b"no graph")
        (tmp_path / "settings.json").write_text(json.dumps(content))
        return tmp_path

    return make


def error_of(capsys, *words):
    assert main(["serve", *words, "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_exports_that_may_hold_code_must_be_trusted(folder, format, capsys):
    error = error_of(capsys, str(folder(format)))
    assert "ConfigError" in error and "--trusted" in error and "runs code" in error


def test_trusted_reaches_the_loader(folder, monkeypatch, capsys):
    """What the loader does with it is tested in tests/export."""

    def load(folder, batch, trusted):
        raise ValueError(f"trusted is {trusted}")

    monkeypatch.setattr(export, "load", load)
    path = str(folder("pt2"))
    assert "ConfigError: trusted is False" in error_of(capsys, path)
    assert "ConfigError: trusted is True" in error_of(capsys, path, "--trusted")


def test_an_export_is_served_as_its_settings_say(folder, monkeypatch):
    """What decodes images, and the ids that the categories have in the dataset."""
    path = folder("onnx")
    monkeypatch.setitem(runtime._RUNTIMES, "onnx", lambda *_: lambda inputs: [])
    content = json.loads((path / "settings.json").read_text())
    model = load_model(str(path))
    assert model.backend == "opencv" and [c.id for c in model.categories] == [1]
    content["input"]["resize"], content["category_ids"] = "detectron2", [17]
    (path / "settings.json").write_text(json.dumps(content))
    model = load_model(str(path))
    assert model.backend == "detectron2" and [c.id for c in model.categories] == [17]
    for wrong in ([1, 2], ["17"], 17, [True]):
        content["category_ids"] = wrong
        (path / "settings.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match="'category_ids' must be a whole number for each"):
            load_model(str(path))


def test_a_runtime_that_is_not_installed_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in error_of(capsys, str(folder("onnx")))


def test_an_export_that_is_damaged(folder, capsys):
    path = folder("onnx")
    (path / "graph").write_bytes(b"another")
    assert "is not the file that was exported" in error_of(capsys, str(path))
    (path / "graph").unlink()
    assert "graph is missing" in error_of(capsys, str(path))
    (path / "settings.json").write_text("{")
    assert "settings.json is damaged" in error_of(capsys, str(path))


def test_a_folder_that_is_no_export(tmp_path):
    with pytest.raises(ConfigError, match="hrnet-d2 export"):
        load_model(str(tmp_path))
    with pytest.raises(ConfigError, match="There is no folder .*none/"):
        load_model(f"{tmp_path / 'none'}/")
