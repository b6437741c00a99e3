"""COCO metrics of a dataset's predictions, quickly.

Detectron2's ``COCOEvaluator`` is slow without its compiled extension. Here ``faster-coco-eval``
(C++) does the matching, and masks are encoded inside their boxes; the numbers equal pycocotools'.
"""

import contextlib
import functools
import io
import itertools
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.evaluation.coco_evaluation import COCOeval, COCOeval_opt, instances_to_coco_json
from detectron2.utils.file_io import PathManager

from hrnet_d2.data.datasets.coco_check import explain_unreadable

from .ground_truth import (
    check_ground_truth,
    evaluated_fields,
    require_segmentations,
)
from .rle import encode_masks

try:
    import faster_coco_eval
except ImportError:
    faster_coco_eval = None

__all__ = ["CheckedCOCOEvaluator", "FastCOCOEvaluator", "build_evaluator"]

logger = logging.getLogger(__name__)


@functools.cache
def _log_once(message: str) -> None:
    logger.info(message)


class CheckedCOCOEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` with checks of the ground truth and of the predictions.

    Args:
        dataset_name: a registered dataset.
        masks: check at once that all objects have valid segmentations; otherwise it is checked
            when masks are evaluated, and boxes are evaluated without them.
        args, kwargs: the arguments of ``COCOEvaluator``.

    Raises:
        DatasetError: if the annotation file is invalid; the message has all problems.
    """

    def __init__(self, dataset_name: str, *args: Any, masks: bool = False, **kwargs: Any):
        try:
            super().__init__(dataset_name, *args, **kwargs)
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            json_file = MetadataCatalog.get(dataset_name).get("json_file")
            if json_file is not None:
                explain_unreadable(json_file, error)
            raise
        self._source = str(self._metadata.json_file)
        if not self._do_evaluation:
            self._logger.warning(
                '%s has no "annotations": predictions are saved, and no AP is computed',
                self._source,
            )
            return
        masks = masks or "segm" in (self._tasks or ())
        check_ground_truth(self._coco_api.dataset, self._source, masks=masks)
        self._masks_checked = masks
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Raises:
            ValueError: if a box or a score is not a finite number.
        """
        _check_finite(inputs, outputs)
        super().process(inputs, outputs)

    def _eval_predictions(
        self, predictions: list[dict], img_ids: Sequence[int] | None = None
    ) -> None:
        results = itertools.chain.from_iterable(p["instances"] for p in predictions)
        self._check_masks(self._tasks or self._tasks_from_predictions(results))
        super()._eval_predictions(predictions, img_ids=img_ids)

    def _check_masks(self, tasks: Sequence[str]) -> None:
        if self._do_evaluation and "segm" in tasks and not self._masks_checked:
            require_segmentations(self._coco_api.dataset, self._source)
            self._masks_checked = True


class FastCOCOEvaluator(CheckedCOCOEvaluator):
    """Detectron2's ``COCOEvaluator`` on top of ``faster-coco-eval``.

    Takes the same arguments and prints and returns the same metrics, equal to pycocotools' to
    1e-6 for boxes and masks.  Keypoints are evaluated by Detectron2's implementation.

    Raises:
        ImportError: if ``faster-coco-eval`` is not installed.
    """

    def __init__(self, dataset_name: str, *args: Any, **kwargs: Any):
        if faster_coco_eval is None:
            raise ImportError("FastCOCOEvaluator needs faster-coco-eval: pip install it")
        # Detectron2's own fast implementation has no part in this one. Asked for it, Detectron2
        # would log that it is not built and that the evaluation falls back to the slow one.
        kwargs.setdefault("use_fast_impl", False)
        super().__init__(dataset_name, *args, **kwargs)
        if self._do_evaluation:
            dataset = evaluated_fields(self._coco_api.dataset)
            self._fast_ground_truth = faster_coco_eval.COCO(dataset)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """As Detectron2's, but encodes masks at once and only inside their boxes.

        Raises:
            ValueError: if a box or a score is not a finite number.
        """
        _check_finite(inputs, outputs)
        for image, output in zip(inputs, outputs, strict=True):
            prediction = {"image_id": image["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                rles = None
                if instances.has("pred_masks"):
                    rles = encode_masks(instances.pred_masks)
                    instances.remove("pred_masks")
                prediction["instances"] = instances_to_coco_json(instances, image["image_id"])
                if rles is not None:
                    for result, rle in zip(prediction["instances"], rles, strict=True):
                        result["segmentation"] = rle
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def _eval_predictions(
        self, predictions: list[dict], img_ids: Sequence[int] | None = None
    ) -> None:
        results = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        tasks = sorted(self._tasks or self._tasks_from_predictions(results))
        if "keypoints" in tasks:
            super()._eval_predictions(predictions, img_ids=img_ids)
            return
        unknown = [task for task in tasks if task not in ("bbox", "segm")]
        if unknown:
            raise ValueError(f"COCO tasks are bbox, segm and keypoints, got {unknown}")
        self._check_masks(tasks)
        self._to_dataset_categories(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as f:
                json.dump(results, f)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation")
            return
        self._logger.info("Evaluating predictions with faster-coco-eval ...")
        for task in tasks:
            evaluated = self._evaluate_task(results, task, img_ids) if results else None
            self._results[task] = self._derive_coco_results(
                evaluated, task, class_names=self._metadata.get("thing_classes")
            )

    def _to_dataset_categories(self, results: list[dict]) -> None:
        """Convert contiguous class numbers to the dataset's category ids, in place."""
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is None:
            return
        to_dataset = {contiguous: category for category, contiguous in to_contiguous.items()}
        for result in results:
            category = result["category_id"]
            if category not in to_dataset:
                raise ValueError(
                    f"A prediction for image {result['image_id']} has class {category}, but "
                    f"'{self._metadata.name}' has the classes 0 to {len(to_dataset) - 1}: "
                    "NUM_CLASSES of the model is not that of the dataset"
                )
            result["category_id"] = to_dataset[category]

    def _evaluate_task(self, results: list[dict], task: str, img_ids: Sequence[int] | None) -> Any:
        """The evaluated ``COCOeval_faster`` of one task; does not modify ``results``."""
        # A result with a box has the area of its box. Masks are small, medium or large by their
        # own area, so the other task's field is left out.
        field = {"bbox": "bbox", "segm": "segmentation"}[task]
        detections = self._fast_ground_truth.loadRes(
            [
                {key: result[key] for key in ("image_id", "category_id", "score", field)}
                for result in results
            ]
        )
        evaluation = faster_coco_eval.COCOeval_faster(
            self._fast_ground_truth, detections, task, print_function=print
        )
        evaluation.params.maxDets = list(self._max_dets_per_image)
        if img_ids is not None:
            evaluation.params.imgIds = list(img_ids)
        lines = io.StringIO()
        with contextlib.redirect_stdout(lines):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        summary = [line for line in lines.getvalue().splitlines() if " @[ " in line]
        self._logger.info("COCO summary of %s:\n%s", task, "\n".join(summary))
        return evaluation


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """The evaluator of a COCO-style dataset (a JSON file, or Detectron2's records).

    Uses Detectron2's compiled COCO evaluation if it is built, else ``faster-coco-eval`` if it is
    installed, else plain pycocotools: all give the same numbers, at different speeds.

    Args:
        cfg: the model's config; the results are written to ``OUTPUT_DIR/inference`` if
            ``output_folder`` is None.
        dataset_name: a registered dataset.
        output_folder: where to write ``coco_instances_results.json``.

    Raises:
        DatasetError: if the annotation file is invalid; the message has all problems.
        NotImplementedError: if the dataset has another evaluator type.
    """
    if output_folder is None:
        output_folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind not in ("coco", "coco_panoptic_seg"):
        raise NotImplementedError(
            f"'{dataset_name}' has evaluator_type '{kind}', this package evaluates 'coco' only: "
            "override Trainer.build_evaluator for another metric"
        )
    if COCOeval_opt is not COCOeval:
        evaluator = CheckedCOCOEvaluator
    elif faster_coco_eval is not None:
        evaluator = FastCOCOEvaluator
    else:
        _log_once(
            "Neither Detectron2's compiled COCO evaluation nor faster-coco-eval is installed: "
            "evaluating with pycocotools, more slowly (pip install faster-coco-eval)"
        )
        evaluator = CheckedCOCOEvaluator
    return evaluator(
        dataset_name,
        masks=cfg.MODEL.MASK_ON,
        output_dir=output_folder,
        kpt_oks_sigmas=tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS),
    )


def _check_finite(inputs: list[dict], outputs: list[dict]) -> None:
    for image, output in zip(inputs, outputs, strict=True):
        if "instances" not in output:
            continue
        instances = output["instances"]
        values = {"boxes": instances.pred_boxes.tensor, "scores": instances.scores}
        for what, tensor in values.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"The predictions for image {image['image_id']} have {what} that are NaN or "
                    "infinite. The weights of the model are damaged, or its training diverged"
                )
