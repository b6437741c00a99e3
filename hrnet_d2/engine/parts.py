"""What training and evaluation are built of: model, optimizer, data, evaluators."""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from hrnet_d2.data import build_test_loader, build_train_loader
from hrnet_d2.evaluation import build_evaluator
from hrnet_d2.inference.tta import build_tta, without_resize
from hrnet_d2.layers.cpu_training import use_cpu_layers
from hrnet_d2.modeling import build_model
from hrnet_d2.solver import build_optimizer

from . import progress
from .console import FILE_ONLY
from .diverging import check_weights
from .memory import explain_out_of_memory

__all__ = ["Parts"]

logger = logging.getLogger(__name__)


class Parts(DefaultTrainer):
    """The class methods of ``DefaultTrainer``, with this package's parts."""

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict:
        """Detectron2's, for weights that are finite.

        Raises:
            DivergedError: if a weight of the model is not finite.
        """
        check_weights(model, "at evaluation")
        if comm.get_world_size() > 1:
            if evaluators is None:
                evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            elif isinstance(evaluators, DatasetEvaluator):
                evaluators = [evaluators]
            evaluators = [DatasetEvaluators([progress.EvaluationProgress(), e]) for e in evaluators]
        size = f"{cfg.INPUT.MIN_SIZE_TEST} x {cfg.INPUT.MAX_SIZE_TEST} pixels"
        with explain_out_of_memory(
            f"evaluating images of {'up to ' + size if cfg.INPUT.MIN_SIZE_TEST else 'any size'}",
            "INPUT.MIN_SIZE_TEST (with INPUT.MAX_SIZE_TEST), TEST.DETECTIONS_PER_IMAGE, or set "
            "MODEL.OPTIMIZE.DTYPE bfloat16",
        ):
            results: dict = super().test(cfg, model, evaluators)
        return results

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict:  # noqa: N802 (Detectron2's)
        """Evaluate with the test-time augmentation of ``TEST.AUG``.

        Args:
            cfg: a full config.
            model: of :meth:`build_model`, optimized or not.

        Returns:
            As :meth:`test`, with "_TTA" after each key: ``{"bbox_TTA": ...}``. The detections are
            written to ``OUTPUT_DIR/inference_TTA``.

        Raises:
            ConfigError: if there is no test-time augmentation for this model.
        """
        logger.info("Evaluating with test-time augmentation ...")
        augmented = build_tta(cfg, model)
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [
            cls.build_evaluator(cfg, name, os.path.join(folder, name)) for name in cfg.DATASETS.TEST
        ]
        results = cls.test(without_resize(cfg), augmented, evaluators)
        return OrderedDict((f"{key}_TTA", value) for key, value in results.items())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model: nn.Module = build_model(cfg)
        logger.info("Model:\n%s", model, extra=FILE_ONLY)
        if cfg.MODEL.CPU_KERNELS and cfg.MODEL.DEVICE == "cpu":
            use_cpu_layers(model)
        if cfg.MODEL.CHANNELS_LAST:
            # Convolutions take the format from their weights, and other layers from their input.
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        if output_folder is None:
            output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, output_folder)
