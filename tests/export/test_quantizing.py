"""Quantization: its images, what it keeps, what it says when it costs too much."""

import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hrnet_d2.cli import main
from hrnet_d2.data import ImageReadError
from hrnet_d2.export import ExportError, evaluating, load, sensitivity
from hrnet_d2.export.quantizing import MOST_IMAGES, Calibration
from hrnet_d2.export.runtime import OUTPUTS
from tests.export.models import case_config
from tests.extras import needs_export
from tests.parity import FOLDER


def test_the_images_of_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*missing to calibrate on"):
        Calibration.of_folder(tmp_path / "missing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="no image in the folder"):
        Calibration.of_folder(tmp_path)
    image = np.zeros((8, 8, 3), np.uint8)
    for i in range(MOST_IMAGES + 20):
        cv2.imwrite(str(tmp_path / f"{i:04}.png"), image)
    files = Calibration.of_folder(tmp_path).files
    assert len(files) == len(set(files)) == MOST_IMAGES
    assert files[0].name == "0000.png" and files[-1].name > "0310.png"
    (tmp_path / "0000.png").write_text("text")
    with pytest.raises(ImageReadError, match="0000.png cannot be decoded"):
        Calibration.of_folder(tmp_path)


def test_a_thin_image_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "thin.png"), np.zeros((2, 900, 3), np.uint8))

    def prepare(image):
        raise ValueError("too thin")

    calibration = Calibration.of_folder(tmp_path)
    with pytest.raises(ExportError, match="thin.png cannot be used to calibrate: too thin"):
        calibration.sample(calibration.files[0], prepare)


@pytest.fixture
def command(tmp_path):
    """The words of an export of a model in int8."""
    cfg = case_config("faster_rcnn_hrnetv2p_w18", tmp_path)
    cfg.DATASETS.TEST = ()
    (tmp_path / "config.yaml").write_text(cfg.dump())
    shutil.copytree(FOLDER / "images", tmp_path / "photos")
    words = ["export", cfg.MODEL.WEIGHTS, "--config-file", str(tmp_path / "config.yaml")]
    words += ["--format", "openvino", "--calibrate", str(tmp_path / "photos")]
    return [*words, "--output", str(tmp_path / "exported")]


@needs_export("int8")
def test_no_data_to_evaluate_on(command, capsys):
    assert main([*command, "--evaluate"]) == 1
    assert "--evaluate needs annotated images" in capsys.readouterr().err


@pytest.mark.slow
@needs_export("int8")
def test_layers_are_quantized_and_kept(command, tmp_path, capsys):
    assert main([*command, "--keep", "stage4"]) == 0, capsys.readouterr()
    settings = json.loads((tmp_path / "exported" / "settings.json").read_text())
    assert settings["quantization"] == {"images": 3, "keep": ["stage4"]}
    graph = (tmp_path / "exported" / "detector.xml").read_text()
    assert graph.count('type="FakeQuantize"') > 100
    weights = (tmp_path / "exported" / "detector.bin").stat().st_size
    assert weights < 0.7 * (tmp_path / "case.pth").stat().st_size
    assert len(load(tmp_path / "exported")(tmp_path / "photos" / "coffee.png")["instances"]) > 20

    shutil.rmtree(tmp_path / "exported")
    assert main([*command, "--keep", "stage9"]) == 1
    assert "no layer has a name with 'stage9'. Names have, for example, layer1, stage2" in (
        capsys.readouterr().err
    )


def test_advice_if_all_groups_are_kept(monkeypatch):
    monkeypatch.setattr(sensitivity, "layer_groups", lambda model: ["stage2"])
    source = SimpleNamespace(openvino=None)
    advice = sensitivity.advice(source, {}, Calibration([], ["stage2"]), print)
    assert "export without --calibrate" in advice


def test_advice_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr(sensitivity, "layer_groups", lambda model: ["stem", "stage2", "stage3"])
    shares = {"stage2": 0.5, "stage3": 0.75}
    monkeypatch.setattr(sensitivity, "_share", lambda *args: shares[args[-1]])
    lines = []
    source = SimpleNamespace(openvino=None)
    advice = sensitivity.advice(source, {}, Calibration([], ["stem"]), lines.append)
    assert lines == [
        "1 of 2: with stage2 kept, 50% stay",
        "2 of 2: with stage3 kept, 75% stay",
    ]
    assert "stage3 (75% of the model's), stage2 (50%" in advice
    assert advice.endswith("Try --keep stem stage3")


def test_the_network_of_an_advice_runs_once_for_an_image(monkeypatch):
    """And not once for each of its outputs."""
    openvino = pytest.importorskip("openvino")
    inputs_of_runs = []

    def compiled(inputs):
        inputs_of_runs.append(inputs)
        return dict.fromkeys(OUTPUTS)

    core = SimpleNamespace(compile_model=lambda *args: compiled)
    monkeypatch.setattr(openvino, "Core", lambda: core)
    monkeypatch.setattr(sensitivity, "quantize", lambda *args: None)
    monkeypatch.setattr(sensitivity, "compare", lambda detector, *_: detector._run({}) and [])
    source = SimpleNamespace(predictor=SimpleNamespace(model=None))
    entries = {"classes": [], "score_thresh": 0.5, "outputs": OUTPUTS}
    assert sensitivity._share(None, source, entries, Calibration([]), "stage2") == 0
    assert inputs_of_runs == [{}]


@pytest.mark.slow
@needs_export("int8")
def test_a_loss_of_ap_is_refused_with_layers_to_keep(command, tmp_path, capsys, monkeypatch):
    from hrnet_d2.export import exporting

    values = iter([{"bbox": 40.0}, {"bbox": 38.5}])
    monkeypatch.setattr(exporting, "check_evaluation", lambda cfg: None)
    monkeypatch.setattr(exporting, "average_precision", lambda cfg, predict: next(values))
    monkeypatch.setattr(sensitivity, "layer_groups", lambda model: ["stage2", "stage4"])
    assert main([*command, "--evaluate", "--opts", "DATASETS.TEST", "('shapes_val',)"]) == 1
    output = capsys.readouterr()
    assert "bbox AP: model 40.00, export 38.50 (-1.50)" in output.out
    assert f"costs 1.50 bbox AP, more than {evaluating.MOST_LOST}" in output.err
    assert "Try --keep stage" in output.err
    assert not (tmp_path / "exported").exists()
