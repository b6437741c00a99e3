"""Ground truth that others registered: checked before an evaluation tool sees it."""

import copy
import json
import logging
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from hrnet_d2.data import DatasetError
from hrnet_d2.evaluation import CheckedCOCOEvaluator, FastCOCOEvaluator, build_evaluator

NAME = "test_ground_truth"
SIZE = (40, 60)
CORNERS = torch.tensor([[5.0, 5.0, 25.0, 15.0]])
EVALUATORS = [FastCOCOEvaluator, CheckedCOCOEvaluator]


@pytest.fixture
def data():
    square = [5, 5, 25, 5, 25, 15, 5, 15]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)]
    annotations = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "bbox": [5, 5, 20, 10],
            "area": 200,
            "iscrowd": 0,
            "segmentation": [square],
        }
        for i in (1, 2)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}


@pytest.fixture
def register(tmp_path):
    path = tmp_path / "truth.json"

    def _register(content):
        path.write_text(json.dumps(content))
        classes = {"thing_classes": ["a"], "thing_dataset_id_to_contiguous_id": {1: 0}}
        register_coco_instances(NAME, classes, str(path), str(tmp_path))
        return NAME

    yield _register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def predicted(masks=True, **changes):
    fields = {
        "pred_boxes": Boxes(CORNERS.clone()),
        "scores": torch.tensor([0.9]),
        "pred_classes": torch.tensor([0]),
        **changes,
    }
    if masks:
        fields["pred_masks"] = torch.zeros(1, *SIZE, dtype=torch.bool)
        fields["pred_masks"][:, 5:15, 5:25] = True
    return Instances(SIZE, **fields)


def run(evaluator, ids=(1, 2), **kwargs):
    evaluator.reset()
    for image_id in ids:
        evaluator.process([{"image_id": image_id}], [{"instances": predicted(**kwargs)}])
    return evaluator.evaluate()


RLE = mask_util.encode(np.asfortranarray(np.ones(SIZE, np.uint8)))
MALFORMED = {
    "rle too short": {"size": [40, 60], "counts": RLE["counts"].decode()[:-1]},
    "garbage": {"size": [40, 60], "counts": "garbage"},
    "counts too short": {"size": [40, 60], "counts": [5, 5]},
    "negative": {"size": [40, 60], "counts": [-5, 2405]},
    "other size": {"size": [400, 600], "counts": [240000]},
    "nan": [[5, 5, float("nan"), 5, 25, 15]],
    "huge": [[5, 5, 1e9, 5, 25, 15]],
    "line": [[5, 5, 25, 15]],
    "text": "a",
}


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_malformed_segmentations(data, register, evaluator, value, caplog):
    """Refused for masks, at once if masks are announced; boxes are evaluated without them."""
    data["annotations"][0]["segmentation"] = value
    name = register(data)
    with pytest.raises(DatasetError, match=r"(?s)truth.json cannot.*malformed.*ids 1"):
        evaluator(name, masks=True)
    assert run(evaluator(name), masks=False)["bbox"]["AP"] == pytest.approx(100)
    assert "truth.json: 1 segmentations are malformed" in caplog.text
    with pytest.raises(DatasetError, match="1 of 2 objects of .*truth.json.*annotation id 1"):
        run(evaluator(name))


def test_models_of_masks_announce_them(data, register, tmp_path):
    data["annotations"][0]["segmentation"] = MALFORMED["garbage"]
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    name = register(data)
    build_evaluator(cfg, name)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(DatasetError, match="malformed"):
        build_evaluator(cfg, name)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("area", None),
        ("area", float("nan")),
        ("area", -3),
        ("area", "200"),
        ("iscrowd", None),
        ("iscrowd", "0"),
        ("id", 0),
        ("id", -7),
        ("id", 2**63),
        ("id", 2**70),
        ("id", 2),
        ("score", float("nan")),
        ("segmentation", [5, 5, 25, 5, 25, 15, 5, 15]),
    ],
)
def test_repaired_truth_gives_perfect_predictions_100(data, register, evaluator, key, value):
    data["annotations"][0][key] = value
    result = run(evaluator(register(data)))
    assert result["bbox"]["AP"] == pytest.approx(100)
    assert result["segm"]["AP"] == pytest.approx(100)
    assert result["bbox"]["APs"] == pytest.approx(100)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("annotations", "bbox", [5, 5, float("nan"), 10], "four finite numbers.*ids 1"),
        ("annotations", "bbox", None, "four finite numbers.*ids 1"),
        ("annotations", "category_id", "1", "category_ids of annotations.*whole"),
        ("annotations", "image_id", [1], "image_ids of annotations.*whole"),
        ("images", "width", "60", "width that is not a whole number"),
        ("images", "id", 2**63, "more than 64 bits|lacks"),
        ("categories", "id", 2**70, "more than 64 bits|lacks"),
    ],
)
def test_other_faults_are_named(data, register, evaluator, table, key, value, words):
    data[table][0][key] = value
    with pytest.raises(DatasetError, match=f"(?s)truth.json cannot be used.*{words}"):
        evaluator(register(data))


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_nothing_to_evaluate_on_is_told(data, register, evaluator, caplog):
    data["annotations"] = []
    result = run(evaluator(register(data)), masks=False)
    assert math.isnan(result["bbox"]["AP"])
    assert "truth.json has no objects to evaluate on" in caplog.text


def test_truth_without_annotations_is_told(data, register, tmp_path, caplog):
    del data["annotations"]
    evaluator = FastCOCOEvaluator(register(data), output_dir=str(tmp_path))
    run(evaluator)
    assert 'truth.json has no "annotations"' in caplog.text
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 2


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_predictions_that_are_not_finite(data, register, evaluator):
    judge = evaluator(register(data))
    judge.reset()
    for field, value, what in (
        ("scores", torch.tensor([float("nan")]), "scores"),
        ("pred_boxes", Boxes(CORNERS * float("inf")), "boxes"),
    ):
        with pytest.raises(ValueError, match=f"image 1 have {what} that are NaN or infinite"):
            judge.process([{"image_id": 1}], [{"instances": predicted(**{field: value})}])


def test_annotations_of_unknown_images_are_left_out(data, register, caplog):
    data["annotations"].append({**copy.deepcopy(data["annotations"][0]), "id": 3, "image_id": 9})
    with caplog.at_level(logging.WARNING):
        result = run(FastCOCOEvaluator(register(data)))
    assert result["bbox"]["AP"] == pytest.approx(100)
    assert '1 annotations have an image_id that "images" lacks' in caplog.text
