"""The evaluator: pycocotools' numbers, whatever computes them."""

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
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from hrnet_d2.evaluation import (
    CheckedCOCOEvaluator,
    FastCOCOEvaluator,
    build_evaluator,
    coco_evaluation,
)

CATEGORIES = [(3, "cup"), (7, "tree"), (90, "kite"), (91, "never seen")]
SIZE = (120, 160)


def _box_mask(box) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    x, y, w, h = (int(v) for v in box)
    mask[y : y + h, x : x + w] = 1
    return mask


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """40 images with objects of all sizes, crowds, empty images, and noisy predictions of them."""
    rng = np.random.default_rng(0)
    images, annotations, predictions = [], [], []
    for image_id in range(1, 41):
        images.append({"id": image_id, "file_name": f"{image_id}.jpg"})
        images[-1].update(height=SIZE[0], width=SIZE[1])
        boxes, classes = [], []
        for _ in range(0 if image_id % 10 == 0 else rng.integers(1, 9)):
            w, h = rng.integers(4, 110, 2) if rng.random() < 0.5 else rng.integers(3, 30, 2)
            x, y = rng.integers(0, SIZE[1] - w), rng.integers(0, SIZE[0] - h)
            box = [int(v) for v in (x, y, w, h)]
            index = int(rng.integers(0, 3))
            crowd = int(rng.random() < 0.1)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            rle = mask_util.encode(np.asfortranarray(_box_mask(box)))
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": CATEGORIES[index][0],
                "bbox": box,
                "area": int(w * h * 0.9),
                "iscrowd": crowd,
                "segmentation": {"size": list(SIZE), "counts": rle["counts"].decode()}
                if crowd
                else [[int(v) for v in polygon]],
            }
            annotations.append(annotation)
            for _ in range(rng.integers(0, 4)):
                noise = rng.normal(0, 0.1, 4) * [w, h, w, h]
                boxes.append(np.clip(np.array(box) + noise, 1, None))
                classes.append(index if rng.random() < 0.8 else int(rng.integers(0, 3)))
        instances = Instances(SIZE)
        xywh = np.array(boxes).reshape(-1, 4)
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1).astype(np.float32)
        instances.pred_boxes = Boxes(torch.from_numpy(corners))
        # Two decimals: plenty of ties
        instances.scores = torch.from_numpy(rng.random(len(xywh)).round(2).astype(np.float32))
        instances.pred_classes = torch.tensor(classes, dtype=torch.long)
        masks = np.array([_box_mask(box) for box in xywh], bool).reshape(-1, *SIZE)
        instances.pred_masks = torch.from_numpy(masks)
        predictions.append(instances)
    path = tmp_path_factory.mktemp("coco") / "annotations.json"
    categories = [{"id": i, "name": name} for i, name in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps({"info": {}, **content}))
    name = "test_evaluation_coco"
    register_coco_instances(name, {}, str(path), str(path.parent))
    DatasetCatalog.get(name)
    yield name, [image["id"] for image in images], predictions
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def _evaluate(evaluator, ids, predictions, **kwargs):
    evaluator.reset()
    for image_id, instances in zip(ids, predictions, strict=True):
        copied = Instances(instances.image_size, **instances.get_fields())
        evaluator.process([{"image_id": image_id}], [{"instances": copied}])
    return evaluator.evaluate(**kwargs)


def _assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for task in theirs:
        assert ours[task].keys() == theirs[task].keys()
        for name, value in theirs[task].items():
            same = math.isclose(ours[task][name], value, rel_tol=0, abs_tol=1e-6)
            assert same or math.isnan(value) and math.isnan(ours[task][name]), (task, name)


@pytest.mark.parametrize("limit", [None, 100, 5])
def test_every_metric_equals_pycocotools(dataset, tmp_path, limit):
    name, ids, predictions = dataset
    args = {"output_dir": str(tmp_path), "max_dets_per_image": limit}
    theirs = _evaluate(COCOEvaluator(name, use_fast_impl=False, **args), ids, predictions)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    ours = _evaluate(FastCOCOEvaluator(name, **args), ids, predictions)
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == written
    _assert_equal(ours, theirs)
    assert 5 < theirs["bbox"]["AP"] < 95 and 5 < theirs["segm"]["AP"] < 95
    assert {"AP50", "APs", "APm", "APl", "AP-cup", "AP-never seen"} <= ours["segm"].keys()


def test_some_images_only(dataset):
    name, ids, predictions = dataset
    kept = {"img_ids": ids[5:20]}
    theirs = _evaluate(COCOEvaluator(name, use_fast_impl=False), ids, predictions, **kept)
    _assert_equal(_evaluate(FastCOCOEvaluator(name), ids, predictions, **kept), theirs)


def test_boxes_only_and_twice_in_a_row(dataset):
    name, ids, predictions = dataset
    boxes = []
    for instances in predictions:
        fields = {k: v for k, v in instances.get_fields().items() if k != "pred_masks"}
        boxes.append(Instances(instances.image_size, **fields))
    evaluator = FastCOCOEvaluator(name)
    first = _evaluate(evaluator, ids, boxes)
    assert list(first) == ["bbox"]
    _assert_equal(_evaluate(evaluator, ids, boxes), first)


def test_processing_leaves_the_models_output_alone(dataset):
    name, ids, predictions = dataset
    evaluator = FastCOCOEvaluator(name)
    evaluator.reset()
    evaluator.process([{"image_id": ids[0]}], [{"instances": predictions[0]}])
    assert predictions[0].has("pred_masks")


def test_no_detections_at_all(dataset):
    name, ids, predictions = dataset
    result = _evaluate(FastCOCOEvaluator(name), ids[:1], [predictions[0][:0]])
    assert math.isnan(result["bbox"]["AP"])


def test_a_class_that_the_dataset_lacks_is_named(dataset):
    name, ids, predictions = dataset
    wrong = Instances(SIZE, **predictions[0].get_fields())
    wrong.pred_classes = wrong.pred_classes + 80
    with pytest.raises(ValueError, match=r"image 1 has class 8\d.*0 to 3"):
        _evaluate(FastCOCOEvaluator(name), ids[:1], [wrong])


def test_build_evaluator_chooses_what_is_installed(dataset, tmp_path, monkeypatch, caplog):
    name, _, _ = dataset
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    built = build_evaluator(cfg, name)
    assert type(built) is FastCOCOEvaluator
    assert built._output_dir == str(tmp_path / "inference")

    monkeypatch.setattr(coco_evaluation, "faster_coco_eval", None)
    coco_evaluation._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger=coco_evaluation.__name__):
        assert type(build_evaluator(cfg, name)) is CheckedCOCOEvaluator
        build_evaluator(cfg, name)
    assert sum("pip install faster-coco-eval" in r.message for r in caplog.records) == 1
    with pytest.raises(ImportError, match="faster-coco-eval"):
        FastCOCOEvaluator(name)


def test_another_kind_of_dataset_is_refused(dataset, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    MetadataCatalog.get("test_evaluation_lvis").evaluator_type = "lvis"
    with pytest.raises(NotImplementedError, match="test_evaluation_lvis.*'lvis'"):
        build_evaluator(cfg, "test_evaluation_lvis")
    MetadataCatalog.remove("test_evaluation_lvis")
