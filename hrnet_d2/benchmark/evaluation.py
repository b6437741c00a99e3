"""A COCO dataset and its detections, made of random numbers to time evaluators."""

import json
import math
import os
import tempfile
import time
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator

from hrnet_d2.evaluation.coco_evaluation import FastCOCOEvaluator

__all__ = ["compare_evaluators", "synthetic_coco"]

HEIGHT, WIDTH = 480, 640


def _outline(box: np.ndarray, rng: np.random.Generator, points: int = 16) -> list[float]:
    """A bumpy ellipse inside a box (x, y, width, height), as COCO's polygon."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = rng.uniform(0.7, 1.0, points)
    x = box[0] + box[2] / 2 * (1 + radius * np.cos(angles))
    y = box[1] + box[3] / 2 * (1 + radius * np.sin(angles))
    return np.stack([x, y], 1).round(2).ravel().tolist()


def synthetic_coco(
    images: int, *, objects: int = 7, detections: int = 40, categories: int = 80, seed: int = 0
) -> tuple[dict, list[dict]]:
    """A dataset in COCO's format, and per-image predictions as ``COCOEvaluator`` keeps them.

    Args:
        images: number of images.
        objects: of an image, on average, as in COCO.
        detections: of an image: noisy copies of its objects, and as many from nowhere.
    """
    rng = np.random.default_rng(seed)
    dataset: dict[str, Any] = {"info": {}, "images": [], "annotations": []}
    dataset["categories"] = [{"id": i + 1, "name": f"class {i}"} for i in range(categories)]
    predictions = []
    for image_id in range(1, images + 1):
        dataset["images"].append(
            {"id": image_id, "height": HEIGHT, "width": WIDTH, "file_name": f"{image_id}.jpg"}
        )
        count = int(rng.poisson(objects))
        size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        boxes = np.concatenate([rng.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - size), size], 1)
        classes = rng.integers(0, categories, count)
        for box, category in zip(boxes, classes, strict=True):
            dataset["annotations"].append(
                {
                    "id": len(dataset["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(category) + 1,
                    "bbox": box.round(2).tolist(),
                    "area": float(box[2] * box[3] * 0.6),
                    "iscrowd": 0,
                    "segmentation": [_outline(box, rng)],
                }
            )
        chosen = rng.integers(0, max(1, count), detections)
        found = []
        for i, source in enumerate(chosen):
            near = count > 0 and i < detections // 2
            size = np.exp(rng.uniform(np.log(8), np.log(300), 2))
            box = np.concatenate([rng.uniform(0, 1, 2) * ([WIDTH, HEIGHT] - size), size])
            if near:
                box = boxes[source] + rng.normal(0, 0.08, 4) * boxes[source][[2, 3, 2, 3]]
            box[2:] = np.maximum(box[2:], 2)
            category = classes[source] if near else rng.integers(0, categories)
            rle = mask_util.frPyObjects([_outline(box, rng)], HEIGHT, WIDTH)[0]
            found.append(
                {
                    "image_id": image_id,
                    "category_id": int(category),
                    "bbox": box.tolist(),
                    "score": float(rng.random()),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
        predictions.append({"image_id": image_id, "instances": found})
    return dataset, predictions


def compare_evaluators(images: int) -> list[dict]:
    """Time pycocotools and the fast evaluator on the same synthetic predictions.

    Returns:
        A row for each evaluator with its seconds and AP, then one with the speed-up and the
        largest difference of any metric.
    """
    dataset, predictions = synthetic_coco(images)
    name = "synthetic_coco_for_timing"
    rows, metrics, seconds = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "annotations.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dataset, f)
        register_coco_instances(name, {}, path, folder)
        try:
            DatasetCatalog.get(name)
            evaluators = {"pycocotools": COCOEvaluator, "faster-coco-eval": FastCOCOEvaluator}
            for label, evaluator in evaluators.items():
                kwargs = {"use_fast_impl": False} if evaluator is COCOEvaluator else {}
                made = evaluator(name, distributed=False, **kwargs)
                made.reset()
                # Evaluation renames the categories in place.
                made._predictions = [
                    {**p, "instances": [dict(r) for r in p["instances"]]} for p in predictions
                ]
                start = time.perf_counter()
                metrics[label] = made.evaluate()
                seconds[label] = time.perf_counter() - start
                found = {task: round(values["AP"], 4) for task, values in metrics[label].items()}
                row = {"evaluator": label, "images": images, "seconds": seconds[label]}
                rows.append({**row, "AP": found})
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    slow, fast = metrics["pycocotools"], metrics["faster-coco-eval"]
    gaps = [
        abs(value - fast[task][key])
        for task in slow
        for key, value in slow[task].items()
        if not (math.isnan(value) and math.isnan(fast[task][key]))
    ]
    ratio = seconds["pycocotools"] / seconds["faster-coco-eval"]
    rows.append({"speedup": round(ratio, 2), "largest_difference": max(gaps), "metrics": len(gaps)})
    return rows
