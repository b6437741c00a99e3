"""COCO's metrics in all, by class, by size of the objects and by their number in an image."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval

from .inputs import Detections, Truth

try:
    import faster_coco_eval
except ImportError:
    faster_coco_eval = None

__all__ = ["CROWDING", "HEADLINE", "SIDES", "Metrics", "evaluate"]

HEADLINE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
PER_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
AREAS = [(0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)]  # COCO's
ALL, SMALL, MEDIUM, LARGE = range(4)
# Edges of the size classes of the chart: the square root of the area, in pixels.
SIDES = (0, 8, 16, 32, 64, 128, 256, 512, 100_000)
# Least and largest number of objects in an image.
CROWDING = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, None))


@dataclass(frozen=True)
class Metrics:
    """COCO's metrics from 0 to 1; None where they are undefined (no object)."""

    headline: dict[str, float | None]
    by_class: list[dict[str, float | None]]
    """For each class, by the names of ``PER_CLASS``."""
    curves: dict[str, np.ndarray]
    """By IoU ("mean", "50", "75"): (K, 101) precision at the recalls 0, 0.01, ..., 1; -1 for
    classes without objects."""
    by_size: list[dict[str, Any]]
    """For each range of ``SIDES`` with objects: "low", "high" (pixels), "objects", "AP", "AP50",
    "AR100"."""
    by_crowding: list[dict[str, Any]]
    """For each range of ``CROWDING`` with images: "low", "high" (objects), "images", "objects",
    "AP", "AP50", "AR100"."""


def evaluate(truth: Truth, detections: Detections, task: str) -> Metrics:
    """Evaluate results with faster-coco-eval, or with pycocotools if it is not installed.

    Args:
        truth: the objects.
        detections: of one run.
        task: "bbox" or "segm".
    """
    with contextlib.redirect_stdout(io.StringIO()):
        module: Any = faster_coco_eval or pycocotools.coco
        ground_truth = _coco(module, truth.dataset)
        predicted = _predicted(module, ground_truth, detections, task)
        areas = np.array([a["area"] for a in truth.dataset["annotations"] if not a["iscrowd"]])
        sides = [
            (low, high, n)
            for low, high in zip(SIDES, SIDES[1:], strict=False)
            if (n := int(((areas >= low**2) & (areas < high**2)).sum()))
        ]
        ranges = [*AREAS, *((low**2, np.nextafter(high**2, 0)) for low, high, _ in sides)]
        found = _Evaluated(ground_truth, predicted, task, ranges)
        headline = {name: found.value(*_slot(name)) for name in HEADLINE}
        by_class = [
            {name: found.value(*_slot(name), cls=k) for name in PER_CLASS}
            for k in range(len(truth.class_ids))
        ]
        by_size: list[dict[str, Any]] = [
            {
                "low": low,
                "high": high if high < SIDES[-1] else None,
                "objects": n,
                **found.three(len(AREAS) + i),
            }
            for i, (low, high, n) in enumerate(sides)
        ]
        per_image = np.bincount(truth.image[~truth.crowd], minlength=len(truth.image_ids))
        by_crowding: list[dict[str, Any]] = []
        for low, high in CROWDING:
            inside = np.flatnonzero((per_image >= low) & (per_image <= (high or np.inf)))
            if len(inside):
                ids = [truth.image_ids[i] for i in inside]
                part = _Evaluated(ground_truth, predicted, task, AREAS[:1], ids)
                numbers = {"images": len(ids), "objects": int(per_image[inside].sum())}
                by_crowding.append({"low": low, "high": high, **numbers, **part.three(ALL)})
    precision = found.precision[:, :, :, ALL, -1]
    curves = {"50": precision[0].T, "75": precision[5].T, "mean": precision.mean(axis=0).T}
    return Metrics(headline, by_class, curves, by_size, by_crowding)


def _coco(module: Any, dataset: dict) -> Any:
    if module is faster_coco_eval:
        return module.COCO(dataset)
    coco = module.COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _predicted(module: Any, ground_truth: Any, detections: Detections, task: str) -> Any:
    if not detections.results:
        empty = {key: ground_truth.dataset[key] for key in ("images", "categories")}
        return _coco(module, {"info": {}, **empty, "annotations": []})
    # A result with a box has the area of its box; masks are small or large by their own area.
    field = {"bbox": "bbox", "segm": "segmentation"}[task]
    keys = ("image_id", "category_id", "score", field)
    return ground_truth.loadRes([{key: r[key] for key in keys} for r in detections.results])


def _slot(name: str) -> tuple[str, int | None, int, int]:
    """Of a metric: "precision" or "recall", index of the IoU, of the area and of maxDets."""
    kind = "precision" if name.startswith("AP") else "recall"
    area = {"s": SMALL, "m": MEDIUM, "l": LARGE}.get(name[-1], ALL)
    iou = {"AP50": 0, "AP75": 5}.get(name)
    most = {"AR1": 0, "AR10": 1}.get(name, 2)
    return kind, iou, area, most


class _Evaluated:
    """The arrays of an evaluation, and means of parts of them."""

    def __init__(
        self,
        ground_truth: Any,
        predicted: Any,
        task: str,
        areas: list[tuple[float, float]],
        image_ids: list[int] | None = None,
    ):
        if faster_coco_eval is not None:
            evaluation = faster_coco_eval.COCOeval_faster(
                ground_truth, predicted, task, print_function=print
            )
        else:
            evaluation = pycocotools.cocoeval.COCOeval(ground_truth, predicted, task)
        evaluation.params.areaRng = [list(area) for area in areas]
        evaluation.params.areaRngLbl = [str(i) for i in range(len(areas))]
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        # IoU, recall, class, area, maxDets; and the same without recall.
        self.precision = np.asarray(evaluation.eval["precision"])
        self.recall = np.asarray(evaluation.eval["recall"])

    def value(
        self, kind: str, iou: int | None, area: int, most: int, cls: int | None = None
    ) -> float | None:
        array = getattr(self, kind)[..., area, most]
        if iou is not None:
            array = array[iou]
        if cls is not None:
            array = array[..., cls]
        array = array[array > -1]
        return float(array.mean()) if array.size else None

    def three(self, area: int) -> dict[str, float | None]:
        return {
            name: self.value(kind, iou, area, most)
            for name in ("AP", "AP50", "AR100")
            for kind, iou, _, most in [_slot(name)]
        }
