"""Each format read back by the tools that it is for, with the same detections."""

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

import hrnet_d2
from hrnet_d2.prediction import to_coco, to_supervision
from hrnet_d2.prediction.writers import FORMATS
from tests.prediction.models import predict, rows, write_pictures, write_video

NAMES = ["a.jpg", "a.png", "sub/b.png", "c.bmp"]
PLAIN = [name for name in FORMATS if name != "parquet"]


def installed(*names):
    for name in names:
        pytest.importorskip(name, reason=f"needs {name}: pip install 'hrnet_d2[predict]'")


@pytest.fixture(scope="module", params=["box", "mask"])
def run(request, tmp_path_factory):
    """A run with every format: the folder, the inputs, and the predictor's own outputs."""
    model = request.getfixturevalue("model" if request.param == "box" else "mask_model")
    folder = tmp_path_factory.mktemp("run")
    paths = write_pictures(folder / "photos", *NAMES)
    (folder / "photos" / "broken.png").write_bytes(paths[1].read_bytes()[:200])
    formats = ",".join(PLAIN)
    try:
        import pyarrow  # noqa: F401

        formats += ",parquet"
    except ImportError:
        pass
    extra = ("--format", formats, "--confidence-threshold", "0")
    assert predict(model, folder / "photos", output=folder / "out", extra=extra) == 1
    cfg = hrnet_d2.model_zoo.load_config(
        str(model.parent / "config.yaml"), ["MODEL.WEIGHTS", str(model)]
    )
    predictor = hrnet_d2.Predictor(cfg)
    paths = sorted(paths, key=str)
    outputs = {str(path): predictor(str(path))["instances"] for path in paths}
    assert any(len(found) for found in outputs.values())
    return folder / "out", outputs, request.param == "mask"


def same(boxes, scores, instances, tolerance=2e-3):
    expected = instances.pred_boxes.tensor.numpy()
    assert len(boxes) == len(expected)
    np.testing.assert_allclose(np.array(boxes).reshape(-1, 4), expected, atol=tolerance)
    if scores is not None:
        np.testing.assert_allclose(scores, instances.scores.numpy(), atol=1e-5)


def test_coco_by_pycocotools(run):
    output, outputs, masks = run
    truth = COCO(str(output / "images.json"))
    assert truth.loadCats([1, 2])[1]["name"] == "square"
    results = truth.loadRes(str(output / "predictions.json"))
    errors = [image for image in truth.dataset["images"] if "error" in image]
    assert len(truth.imgs) == 5 and len(errors) == 1
    for image in truth.dataset["images"]:
        if "error" in image:
            continue
        found = results.loadAnns(results.getAnnIds([image["id"]]))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in found)]
        instances = outputs[image["file_name"]]
        same(boxes, [a["score"] for a in found], instances)
        assert [a["category_id"] - 1 for a in found] == instances.pred_classes.tolist()
        for i, annotation in enumerate(found if masks else ()):
            mask = results.annToMask(annotation)
            assert np.array_equal(mask, instances.pred_masks[i].numpy())


def test_json_lines(run):
    output, outputs, masks = run
    found = {row["image"]: row for row in rows(output)}
    assert [bool(row["error"]) for row in found.values()].count(True) == 1
    for path, instances in outputs.items():
        detections = found[path]["detections"]
        same([d["box"] for d in detections], [d["score"] for d in detections], instances)
        assert [d["class"] for d in detections] == instances.pred_classes.tolist()
        assert all(("segmentation" in d) == masks for d in detections)
        assert (found[path]["height"], found[path]["width"]) == instances.image_size


def test_csv(run):
    output, outputs, masks = run
    with open(output / "predictions.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert sum(bool(row["error"]) for row in table) == 1
    for path, instances in outputs.items():
        mine = [row for row in table if row["image"] == path]
        boxes = [[float(row[k]) for k in ("x1", "y1", "x2", "y2")] for row in mine]
        same(boxes, [float(row["score"]) for row in mine], instances)
        for i, row in enumerate(mine if masks else ()):
            size = [int(row["height"]), int(row["width"])]
            mask = mask_util.decode({"size": size, "counts": row["rle"]})
            assert np.array_equal(mask, instances.pred_masks[i].numpy())


def test_csv_by_pandas(run):
    pandas = pytest.importorskip("pandas")
    output, outputs, _ = run
    table = pandas.read_csv(output / "predictions.csv")
    assert table["score"].notna().sum() == sum(map(len, outputs.values()))


def test_parquet_by_pyarrow(run):
    installed("pyarrow")
    import pyarrow.parquet

    output, outputs, masks = run
    table = pyarrow.parquet.read_table(output / "predictions.parquet").to_pylist()
    assert [bool(row["error"]) for row in table].count(True) == 1
    for row in table:
        if row["error"]:
            assert row["boxes"] == [] and row["width"] is None
            continue
        instances = outputs[row["image"]]
        same(row["boxes"], row["scores"], instances, 1e-6)
        assert row["classes"] == instances.pred_classes.tolist()
        assert (row["masks"] is not None) == masks
        for i, counts in enumerate(row["masks"] or ()):
            mask = mask_util.decode({"size": [row["height"], row["width"]], "counts": counts})
            assert np.array_equal(mask, instances.pred_masks[i].numpy())


def test_parquet_by_pandas(run):
    installed("pyarrow", "pandas")
    import pandas

    output, outputs, _ = run
    table = pandas.read_parquet(output / "predictions.parquet")
    assert len(table) == 5 and table["scores"].map(len).sum() == sum(map(len, outputs.values()))


def test_yolo_by_this_package(run, tmp_path):
    """As data to train on: names of files, classes and boxes."""
    from hrnet_d2.data.datasets.report import Report
    from hrnet_d2.data.datasets.yolo import find_yolo

    output, outputs, masks = run
    for path in outputs:
        label = output / "labels" / f"{_stem(path)}.txt"
        assert label.exists()
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    path = next(p for p in outputs if p.endswith("b.png"))
    (tmp_path / "images" / "b.png").write_bytes(Path(path).read_bytes())
    label = (output / "labels" / "sub" / "b.txt").read_text(encoding="utf-8")
    (tmp_path / "labels" / "b.txt").write_text(label, encoding="utf-8")
    text = (output / "data.yaml").read_text(encoding="utf-8") + "train: images\n"
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    report = Report(tmp_path)
    labels = find_yolo(tmp_path).read(report, None)
    assert labels.classes == ["circle", "square", "triangle", "star"] and not report.errors
    if not masks:
        (image,) = labels.splits["train"]
        boxes = np.array([a["bbox"] for a in image.objects])
        boxes[:, 2:] += boxes[:, :2]
        same(boxes, None, outputs[path], 1e-2)


def _stem(path):
    name = path.split("photos")[1].lstrip("/\\").replace("\\", "/")
    return name if name == "a.png" else name.rsplit(".", 1)[0]


def test_yolo_by_supervision(run):
    installed("supervision")
    import supervision as sv

    output, outputs, masks = run
    data = sv.DetectionDataset.from_yolo(
        str(output.parent / "photos" / "sub"),
        str(output / "labels" / "sub"),
        str(output / "data.yaml"),
        force_masks=masks,
    )
    ((path, _, found),) = list(data)
    instances = next(v for k, v in outputs.items() if k.endswith("b.png"))
    if not masks:
        same(found.xyxy, None, instances, 1e-2)
    assert data.classes == ["circle", "square", "triangle", "star"]


def test_labelme(run):
    output, outputs, masks = run
    for path, instances in outputs.items():
        file = output / "labelme" / f"{_stem(path)}.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        assert (document["imageHeight"], document["imageWidth"]) == instances.image_size
        assert (file.parent / document["imagePath"]).resolve().samefile(path)
        kinds = {shape["shape_type"] for shape in document["shapes"]}
        assert kinds <= ({"polygon"} if masks else {"rectangle"})
        if not masks:
            points = [np.array(shape["points"]).ravel() for shape in document["shapes"]]
            same(points, None, instances)


def test_labelme_by_labelme(run):
    pytest.importorskip("labelme", reason="needs labelme", exc_type=ImportError)
    from labelme._label_file import LabelFile

    output, outputs, masks = run
    for path, instances in outputs.items():
        # It reads the image too.
        shapes = LabelFile(str(output / "labelme" / f"{_stem(path)}.json")).shapes
        if masks:
            shown = {shape["group_id"] for shape in shapes}
            assert shown == set(range(len(instances)))
        else:
            same([np.array(shape["points"]).ravel() for shape in shapes], None, instances)
        assert {shape["label"] for shape in shapes} <= {"circle", "square", "triangle", "star"}


def test_cvat(run):
    output, outputs, masks = run
    root = ET.parse(output / "annotations.xml").getroot()
    labels = [label.text for label in root.iterfind(".//label/name")]
    assert labels == ["circle", "square", "triangle", "star"]
    images = {image.get("name"): image for image in root.iterfind("image")}
    assert set(images) == set(NAMES)
    for path, instances in outputs.items():
        image = images[path.split("photos")[1].lstrip("/\\").replace("\\", "/")]
        found = list(image)
        assert {e.tag for e in found} <= {"polygon" if masks else "box"}
        if not masks:
            keys = ("xtl", "ytl", "xbr", "ybr")
            same([[float(e.get(k)) for k in keys] for e in found], None, instances, 1e-2)


def test_cvat_by_labelformat(run):
    from labelformat.formats.cvat import CVATObjectDetectionInput

    output, outputs, masks = run
    labels = list(CVATObjectDetectionInput(output / "annotations.xml").get_labels())
    assert len(labels) == len(NAMES)
    if not masks:
        assert sum(len(label.objects) for label in labels) == sum(map(len, outputs.values()))


def test_drawn_pictures_by_pillow(run):
    output, outputs, _ = run
    for name in NAMES:
        with Image.open(output / name) as drawn:
            drawn.load()
            assert drawn.size == (60, 40)
    original = cv2.imread(str(output.parent / "photos" / "a.png"))
    assert not np.array_equal(original, cv2.imread(str(output / "a.png")))


def test_outlines_fill_their_mask():
    from hrnet_d2.prediction.writers.polygons import outlines

    mask = np.zeros((80, 90), np.uint8)
    cv2.circle(mask, (30, 40), 20, 1, -1)
    cv2.ellipse(mask, (70, 20), (12, 6), 30, 0, 360, 1, -1)
    mask[70, 60] = 1  # a single pixel
    polygons = outlines(mask)
    assert len(polygons) == 3 and all(len(p) >= 3 for p in polygons)
    rle = mask_util.frPyObjects([p.ravel().tolist() for p in polygons], 80, 90)
    filled = mask_util.decode(mask_util.merge(rle))
    union, common = (filled | mask).sum(), (filled & mask).sum()
    assert common / union > 0.93
    assert outlines(np.zeros((5, 5), np.uint8)) == []


@pytest.fixture
def instances(mask_model):
    cfg = hrnet_d2.model_zoo.load_config(
        str(mask_model.parent / "config.yaml"), ["MODEL.WEIGHTS", str(mask_model)]
    )
    from tests.prediction.models import picture

    return hrnet_d2.Predictor(cfg)(picture(3))["instances"]


def test_detections_of_supervision_from_python(instances):
    installed("supervision")
    import supervision as sv

    expected = sv.Detections.from_detectron2({"instances": instances})
    found = to_supervision({"instances": instances}, ["circle", "square", "triangle", "star"])
    assert len(found) == len(expected) > 0
    assert np.array_equal(found.xyxy, expected.xyxy) and np.array_equal(found.mask, expected.mask)
    assert np.array_equal(found.class_id, expected.class_id)
    assert found["class_name"][0] in ("circle", "square", "triangle", "star")
    compact = to_supervision(instances, compact=True)
    boxes = np.concatenate([np.floor(found.xyxy[:, :2]), np.ceil(found.xyxy[:, 2:])], 1)
    inside = np.zeros_like(found.mask)
    for i, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        inside[i, y1 : y2 + 1, x1 : x2 + 1] = True
    assert np.array_equal(np.asarray(compact.mask), found.mask & inside)


def test_coco_dicts_from_python(instances):
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    found = to_coco({"instances": instances}, 7, [10, 20, 30, 40])
    expected = instances_to_coco_json(instances, 7)
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["image_id"] == 7 and mine["category_id"] == 10 * (theirs["category_id"] + 1)
        np.testing.assert_allclose(mine["bbox"], theirs["bbox"], atol=2e-3)
        assert mine["segmentation"] == theirs["segmentation"]
    json.dumps(found)


def test_without_supervision_the_drawing_is_detectron2s(model, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "supervision", None)
    write_pictures(tmp_path, "a.png")
    extra = ("--confidence-threshold", "0")
    assert predict(model, tmp_path / "a.png", output=tmp_path / "out", extra=extra) == 0
    assert cv2.imread(str(tmp_path / "out" / "a.png")).shape == (40, 60, 3)


@pytest.mark.parametrize("package, option", [("pyarrow", ("--format", "parquet"))])
def test_a_missing_package_is_named_with_its_extra(
    model, tmp_path, monkeypatch, capsys, package, option
):
    import sys

    for name in (package, f"{package}.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    write_pictures(tmp_path, "a.png")
    assert predict(model, tmp_path / "a.png", output=tmp_path / "out", extra=option) == 1
    said = capsys.readouterr().err
    assert package in said and "pip install 'hrnet_d2[predict]'" in said
    assert not (tmp_path / "out").exists()


def test_colors_are_those_of_the_class(tmp_path):
    from hrnet_d2.prediction import Prediction
    from hrnet_d2.prediction.drawing import Drawer

    installed("supervision")
    drawer = Drawer(["x", "y"], [[200, 10, 10], [10, 10, 200]])
    image = np.zeros((60, 80, 3), np.uint8)
    box = np.array([[10, 20, 60, 50]], np.float32)

    def drawn(classes, boxes):
        one = np.ones(len(classes), np.float32)
        found = Prediction(width=80, height=60, boxes=boxes, scores=one, classes=classes)
        return drawer(image, found)

    alone = drawn(np.array([1]), box)
    both = drawn(np.array([0, 1]), np.concatenate([box[:, [1, 0, 3, 2]] * 0 + [0, 0, 5, 5], box]))
    assert tuple(alone[50, 40]) == (200, 10, 10) == tuple(both[50, 40])  # BGR
    assert not image.any(), "the image given stays as it is"


def test_a_drawn_video_by_opencv(model, tmp_path):
    source = write_video(tmp_path / "clip.mp4", 6)
    extra = ("--format", "draw,jsonl,labelme,yolo", "--confidence-threshold", "0")
    assert predict(model, source, output=tmp_path / "out", extra=extra) == 0
    capture = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    assert len(frames) == 6 and frames[0].shape == (48, 64, 3)
    assert [row["frame"] for row in rows(tmp_path / "out")] == list(range(6))
    document = json.loads((tmp_path / "out/labelme/clip.mp4/000003.json").read_text("utf-8"))
    assert document["imageData"], "a frame is no file, so its pixels are in the JSON file"
    assert not list((tmp_path / "out").rglob(".*part*"))


def test_ids_of_an_annotation_file(model, tmp_path, capsys):
    write_pictures(tmp_path / "val", "b.png", "a.png")
    names = ["star", "triangle", "square", "circle"]
    truth = {
        "images": [
            {"id": 70 + i, "file_name": n, "width": 60, "height": 40}
            for i, n in enumerate(("b.png", "a.png"))
        ],
        "categories": [{"id": 5 + i, "name": name} for i, name in enumerate(names)],
        "annotations": [],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    extra = ("--format", "coco,jsonl", "--annotations", tmp_path / "val.json")
    assert predict(model, tmp_path / "val", output=tmp_path / "out", extra=extra) == 0
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    by_name = {row["image"][-5:]: row["id"] for row in rows(tmp_path / "out")}
    assert by_name == {"a.png": 71, "b.png": 70}
    assert {r["image_id"] for r in found} <= {70, 71} and min(r["category_id"] for r in found) >= 5
    write_pictures(tmp_path / "val", "unknown.png")
    assert predict(model, tmp_path / "val", output=tmp_path / "two", extra=extra) == 1
    assert "unknown.png" in capsys.readouterr().err
