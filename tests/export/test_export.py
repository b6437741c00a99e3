"""Exports by the front door: the command writes a folder, which detects what the model detects."""

import json
import re
from types import SimpleNamespace

import cv2
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from hrnet_d2 import Predictor, model_zoo
from hrnet_d2.cli import main
from hrnet_d2.export import ExportError, load, runtime, settings
from hrnet_d2.export.checking import TOLERANCES, compare, match
from hrnet_d2.export.evaluating import check_evaluation
from hrnet_d2.export.folder import WRITTEN
from tests.export.models import case_config, case_predictor
from tests.export.test_graph import IMAGE, eager
from tests.extras import needs_export

# Each format once, with families that differ most; the matrix of docs/deploy.md has all of them.
EXPORTS = [
    ("mask_rcnn_hrnetv2p_w32", "onnx"),
    ("fcos_hrnetv2p_w18", "openvino"),
    ("cascade_rcnn_hrnetv2p_w18", "pt2"),
    ("htc_hrnetv2p_w18", "torchscript"),
    ("mmdet1/v1_cascade_mask_rcnn_w18", "onnx"),
]


def run_command(name, format, folder, *words):
    """The status of the command, and the case's config."""
    cfg = case_config(name, folder)
    config = folder / "config.yaml"
    config.write_text(cfg.dump())
    photo = folder / "photo.png"
    cv2.imwrite(str(photo), IMAGE)
    arguments = [cfg.MODEL.WEIGHTS, "--config-file", config, "--image", photo, *words]
    arguments += ["--format", format, "--output", folder / "exported"]
    return main(["export", *map(str, arguments)]), cfg


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"), [pytest.param(*row, marks=needs_export(row[1])) for row in EXPORTS]
)
def test_the_export_detects_what_the_model_detects(name, format, tmp_path, capsys):
    status, cfg = run_command(name, format, tmp_path)
    assert status == 0, capsys.readouterr()
    folder = tmp_path / "exported"
    assert {"settings.json", "README.md", "detector.py", "check.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert {path.name for path in folder.iterdir()} <= WRITTEN
    check = json.loads((folder / "check.json").read_text())
    assert all(row["ok"] for row in check["comparisons"])

    exported, predictor = load(folder, trusted=True), Predictor(cfg, optimize=False)
    images = [IMAGE[:200, :330], IMAGE[:390, :210]]
    for image, output in zip(images, exported(images), strict=True):
        expected = predictor(image)["instances"]
        found = match(expected, runtime_detections(output["instances"]), TOLERANCES["float32"])
        assert found.expected > 20 and found.ok, found
    assert exported.metadata.get("thing_classes") == predictor.metadata.get("thing_classes")

    # One object, and none. FCOS's threshold is for probabilities, which are above its scores.
    best = exported(IMAGE)["instances"].scores[:2]
    for threshold, few in ((float(best.mean()), 1), (0.99999, 0)):
        exported.detector.score_thresh = threshold
        found = exported(IMAGE)["instances"]
        assert len(found) == few or (few and name.startswith("fcos"))
        assert (found.image_size, found.has("pred_masks")) == (IMAGE.shape[:2], cfg.MODEL.MASK_ON)


def runtime_detections(instances):
    """As a runtime gives them."""
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    return runtime.Detections(
        tuple(instances.image_size),
        instances.pred_boxes.tensor.numpy(),
        instances.scores.numpy(),
        instances.pred_classes.numpy(),
        masks,
    )


@pytest.fixture(scope="module")
def faster(tmp_path_factory):
    return case_predictor("faster_rcnn_hrnetv2p_w18", tmp_path_factory.mktemp("faster"))


def test_a_comparison_of_equals(faster):
    detector = eager(faster).detector
    rows = compare(detector, faster, faster.model, [IMAGE], TOLERANCES["float32"])
    assert [row.batch for row in rows] == [1, 2, 2] and detector.batch == 1
    for found in rows:
        assert found.ok and found.same == found.expected == found.made > 20
        assert found.box < 1e-3 and found.score < 1e-5 and found.mask is None


def test_a_comparison_lowers_the_threshold_until_there_is_something_to_compare(faster):
    detector = eager(faster).detector
    detector.score_thresh = 0.9
    faster.model.roi_heads.box_predictor.test_score_thresh = 0.9
    try:
        assert len(faster(IMAGE)["instances"]) < 20
        found, *_ = compare(detector, faster, faster.model, [IMAGE], TOLERANCES["float32"])
        assert found.ok and found.expected >= 20
        assert detector.score_thresh == 0.9
        assert faster.model.roi_heads.box_predictor.test_score_thresh == 0.9
    finally:
        faster.model.roi_heads.box_predictor.test_score_thresh = 0.05


@pytest.mark.parametrize(
    "spoil",
    [
        lambda boxes, scores, classes, image: (boxes + 3, scores, classes, image),
        lambda boxes, scores, classes, image: (boxes, scores * 0.9, classes, image),
        lambda boxes, scores, classes, image: (boxes, scores, (classes + 1) % 80, image),
        lambda boxes, scores, classes, image: (boxes[5:], scores[5:], classes[5:], image[5:]),
    ],
    ids=["boxes", "scores", "classes", "missing"],
)
def test_a_comparison_finds_what_differs(faster, spoil):
    detector = eager(faster).detector
    right = detector._run
    detector._run = lambda inputs: spoil(*right(inputs))
    found = compare(detector, faster, faster.model, [IMAGE], TOLERANCES["float32"])
    assert not any(row.ok for row in found[:2])


def test_a_comparison_finds_what_only_a_batch_shows(faster):
    detector = eager(faster).detector
    right = detector._run

    def first_image_twice(inputs):
        return right(inputs | {"images": inputs["images"][:1].repeat(len(inputs["images"]), 0)})

    detector._run = first_image_twice
    found = compare(detector, faster, faster.model, [IMAGE], TOLERANCES["float32"])
    assert [row.ok for row in found] == [True, True, False]


@pytest.mark.slow
def test_an_export_that_disagrees_is_not_written(tmp_path, monkeypatch, capsys):
    """Weights of the model change between recording and comparison."""
    from hrnet_d2.export import exporting

    def spoiled(graph, path):
        with torch.no_grad():
            graph.model.head.cls_score.weight.mul_(1.5)
        original(graph, path)

    original = exporting.write_torchscript
    monkeypatch.setattr(exporting, "write_torchscript", spoiled)
    status, _ = run_command("fcos_hrnetv2p_w18", "torchscript", tmp_path)
    assert status == 1
    error = capsys.readouterr().err
    assert re.search(r"disagree: \d+ of \d+ detections in an image of \d+ x \d+ pixels", error)
    assert "98% must be" in error and "Tolerance" not in error
    assert not list(tmp_path.glob("*exported*"))


@needs_export("pt2")
def test_int8_names_its_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(settings, "_version", lambda name: None if name == "nncf" else "1")
    (tmp_path / "photos").mkdir()
    status, _ = run_command(
        "fcos_hrnetv2p_w18", "openvino", tmp_path, "--calibrate", tmp_path / "photos"
    )
    assert status == 1
    assert "int8 needs nncf, not installed here: pip install 'hrnet_d2[int8]'" in (
        capsys.readouterr().err
    )


def test_an_undefined_ap_is_no_loss_of_ap(monkeypatch):
    """Detectron2 gives NaN for a task without annotations, or if nothing was found."""
    from hrnet_d2.export import exporting

    cfg = model_zoo.get_config("mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml")
    predictor = SimpleNamespace(cfg=cfg)
    found = {"bbox": 30.0, "segm": float("nan")}
    monkeypatch.setattr(exporting, "ExportedPredictor", lambda detector: None)
    monkeypatch.setattr(exporting, "average_precision", lambda cfg, predict: found)
    precision = exporting._evaluate(predictor, None, lambda line: None)
    assert precision["model"] == precision["export"] == {"bbox": 30.0}
    assert exporting._problem("int8", [], precision) == ""
    found["bbox"] = float("nan")
    with pytest.raises(ExportError, match="the model has no AP on coco_2017_val: it found nothing"):
        exporting._evaluate(predictor, None, lambda line: None)


def test_data_to_evaluate_on_are_looked_for_first(tmp_path):
    cfg = model_zoo.get_config("mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml")
    cfg.defrost()
    cfg.DATASETS.TEST = ("mine_of_another_process",)
    with pytest.raises(ExportError, match="not registered.*--config-file OUTPUT_DIR/config.yaml"):
        check_evaluation(cfg)
    metadata = MetadataCatalog.get("no_files_val")
    metadata.set(json_file=str(tmp_path / "a.json"), image_root=str(tmp_path))
    DatasetCatalog.register("no_files_val", lambda: [])
    cfg.DATASETS.TEST = ("no_files_val",)
    try:
        with pytest.raises(FileNotFoundError, match=r"a\.json"):
            check_evaluation(cfg)
    finally:
        DatasetCatalog.remove("no_files_val")
        MetadataCatalog.remove("no_files_val")


def test_a_comparison_of_nothing_is_said(faster, tmp_path, monkeypatch):
    """A model that finds nothing, such as one that is hardly trained, equals any export."""
    from hrnet_d2.export import exporting

    detector = eager(faster).detector
    nothing = compare(detector, faster, faster.model, [IMAGE], TOLERANCES["float32"])[0].as_dict()
    nothing |= dict.fromkeys(("expected", "made", "same", "confident", "confident_same"), 0)
    monkeypatch.setattr(exporting, "_write_graph", lambda *args: None)
    monkeypatch.setattr(exporting.runtime, "load", lambda *args, **options: None)
    source = exporting.Source(faster, torch.float32)
    lines: list[str] = []

    def write(name, images):
        lines.clear()
        exporting.write_export(
            source, tmp_path / name, "pt2", "float32", images, report=lines.append
        )

    write("without images", [])
    assert lines[0] == "Not compared: there are no images" and len(lines) == 2
    monkeypatch.setattr(exporting, "compare", lambda *args: [exporting.Comparison(**nothing)])
    write("without detections", [IMAGE])
    assert any("Nothing was compared" in line and "--image" in line for line in lines)
