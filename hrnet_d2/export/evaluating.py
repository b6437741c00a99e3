"""Average precision of a model and of its export, by the same evaluator on the same images."""

import contextlib
import io
import tempfile
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from hrnet_d2.data import check_datasets, register_from_config
from hrnet_d2.evaluation import build_evaluator

from .errors import ExportError

__all__ = ["MOST_LOST", "average_precision", "check_evaluation"]

# An export that loses more points of AP is not written.
MOST_LOST = 1.0


def check_evaluation(cfg: CfgNode) -> None:
    """Register the data of ``DATASETS.OWN``, and check that there is something to evaluate on.

    Raises:
        ExportError: if ``DATASETS.TEST`` is empty or unknown.
        FileNotFoundError: if its files are missing.
    """
    if not cfg.DATASETS.TEST:
        raise ExportError("--evaluate needs annotated images: DATASETS.TEST is empty")
    name = cfg.DATASETS.TEST[0]
    register_from_config(cfg, [name])
    if name not in DatasetCatalog.list():
        raise ExportError(
            f"--evaluate: DATASETS.TEST names {name!r}, which is not registered. A checkpoint does "
            "not say where data of your own lie: give the config that the training saved, as "
            "--config-file OUTPUT_DIR/config.yaml"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (name,)
    check_datasets(cfg, training=False)


def average_precision(cfg: CfgNode, predict: Callable[[str], dict[str, Any]]) -> dict[str, float]:
    """AP of boxes, and of masks if the model has them, on the first of ``DATASETS.TEST``.

    Args:
        cfg: of the model.
        predict: from the path of an image to Detectron2's output.

    Returns:
        AP in percent by task: "bbox", "segm".
    """
    name = cfg.DATASETS.TEST[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),  # of pycocotools
    ):
        evaluator = build_evaluator(cfg, name, folder)
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            evaluator.process([record], [predict(record["file_name"])])
        results = evaluator.evaluate()
    return {task: float(values["AP"]) for task, values in results.items() if "AP" in values}
