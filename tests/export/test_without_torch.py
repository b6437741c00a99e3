"""An exported folder by itself: its program in another folder, where torch cannot be imported."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from hrnet_d2 import Predictor
from hrnet_d2.cli import main
from hrnet_d2.export import ExportedPredictor, load
from tests.export.models import case_config
from tests.export.test_graph import IMAGE
from tests.extras import needs_export

# `make test-export` names an interpreter of an environment without torch; elsewhere this one runs
# with imports blocked.
BARE = os.environ.get("HRNET_D2_BARE_PYTHON")
BLOCKED = (
    "import runpy, sys\n"
    "for name in ('torch', 'detectron2', 'hrnet_d2'): sys.modules[name] = None\n"
    "sys.argv.pop(0)\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)
pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=needs_export(name)) for name in ("onnx", "openvino")],
)
def exported(request, tmp_path_factory):
    """A folder and the model's Predictor; masks, classes with odd names."""
    folder = tmp_path_factory.mktemp(f"Ordner é {request.param}")
    cfg = case_config("mask_rcnn_w18_3_classes", folder)
    cfg.DATASETS.CLASS_NAMES = ["猫", 'it\'s "a" <b>', "two\nlines"]
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    words = ["export", cfg.MODEL.WEIGHTS, "--config-file", str(folder / "config.yaml")]
    words += ["--format", request.param, "--output", str(folder / "exported")]
    assert main(words) == 0
    return folder / "exported", Predictor(cfg, optimize=False)


def run_alone(folder, files, cwd):
    program = [str(folder / "detector.py"), *map(str, files)]
    words = [BARE, *program] if BARE else [sys.executable, "-c", BLOCKED, *program]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert not done.stderr.count("Traceback"), done.stderr
    return done


def photographs(folder):
    """Files of every kind."""
    small = np.ascontiguousarray(IMAGE[:300, :280])
    alpha = np.dstack((small, small[:, :, 0]))
    for name, pixels in (("gray.png", small[:, :, 0]), ("alpha.png", alpha), ("tall.jpg", small)):
        cv2.imwrite(str(folder / name), pixels)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(small[:, :, ::-1]).save(folder / "图 on its side.jpg", exif=exif)
    return sorted(folder.iterdir())


def test_the_program_detects_what_the_predictor_detects(exported, tmp_path):
    folder, predictor = exported
    files = photographs(tmp_path)
    done = run_alone(folder, [file.name for file in files], tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [file.name for file in files]
    names = predictor.cfg.DATASETS.CLASS_NAMES
    for line, output in zip(lines, predictor([str(file) for file in files]), strict=True):
        expected, found = output["instances"], line["detections"]
        assert len(found) == len(expected) > 20
        np.testing.assert_allclose([x["score"] for x in found], expected.scores, atol=1e-4)
        boxes = expected.pred_boxes.tensor
        np.testing.assert_allclose([x["box"] for x in found], boxes, atol=1e-2)
        assert [x["class"] for x in found] == [names[i] for i in expected.pred_classes]


def test_the_program_says_what_it_cannot_read(exported, tmp_path):
    folder, _ = exported
    (tmp_path / "text.jpg").write_text("text")
    cv2.imwrite(str(tmp_path / "good.png"), IMAGE[:300, :280])
    done = run_alone(folder, ["text.jpg", "missing.jpg", "good.png"], tmp_path)
    assert done.returncode == 1
    assert [line.split(" cannot")[0] for line in done.stderr.splitlines()][0] == "text.jpg"
    assert "missing.jpg" in done.stderr.splitlines()[1]
    assert len(done.stdout.splitlines()) == 1


def test_loaded_it_has_the_face_of_a_predictor(exported, tmp_path):
    folder, predictor = exported
    detect = load(folder)
    assert isinstance(detect, ExportedPredictor)
    files = photographs(tmp_path)
    images = [str(files[0]), files[1], cv2.imread(str(files[2])), Image.open(files[3])]
    expected = predictor(images)
    for found in (detect(images), list(detect(iter(images))), [detect(x) for x in images]):
        for a, b in zip(found, expected, strict=True):
            a, b = a["instances"], b["instances"]
            assert a.image_size == b.image_size and len(a) == len(b)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
            assert (a.pred_masks != b.pred_masks).float().mean() < 1e-3
    stream = detect(iter([files[0], tmp_path / "missing.png"]))
    assert len(next(stream)["instances"])
    with pytest.raises(FileNotFoundError, match="There is no image .*missing.png"):
        next(stream)
    with pytest.raises(ValueError, match="image 1 of 2: An image must have the shape"):
        detect([files[0], np.zeros((4, 4), np.uint8)])
    assert detect.metadata.thing_classes == predictor.metadata.thing_classes
