"""Detectron2's trainer with this package's data, checkpoints, optimizer and evaluation."""

import logging
import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.data import build_test_loader, build_train_loader, check_num_classes
from hrnet_d2.evaluation import build_evaluator
from hrnet_d2.inference.optimize import optimize_by_config
from hrnet_d2.modeling import build_model
from hrnet_d2.modeling.arithmetic import training_config
from hrnet_d2.solver import build_optimizer

__all__ = ["Trainer", "evaluate", "step_trainer"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """``DefaultTrainer``, on GPUs or CPU ranks, in fp32, fp16 or bf16."""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: a full config.

        Raises:
            ValueError: if the model's number of classes is not the dataset's, or the config's
                precision is unknown; before anything is built.
        """
        # DefaultTrainer's own constructor would give a GPU to every rank.
        TrainerBase.__init__(self)
        check_num_classes(cfg)
        cfg = apply_checkpoint_settings(cfg, training=True)
        cfg = training_config(cfg)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        _warn_of_recipe(cfg)

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_cpu = cfg.MODEL.DEVICE == "cpu"
        model = create_ddp_model(
            model,
            broadcast_buffers=False,
            device_ids=None if on_cpu else [comm.get_local_rank()],
        )
        self._trainer = step_trainer(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            partial=cfg.MODEL.PARTIAL_LOAD,
            cfg=cfg,
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model: nn.Module = build_model(cfg)
        logger.info("Model:\n%s", model)
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
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(
            cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        )


def evaluate(cfg: CfgNode, resume: bool = False) -> dict:
    """Evaluate a checkpoint on ``cfg.DATASETS.TEST``.

    Args:
        cfg: a full config; ``MODEL.WEIGHTS`` may be of any supported format.
        resume: take the last checkpoint of ``cfg.OUTPUT_DIR`` if there is one.

    Returns:
        Metrics by task ("bbox", "segm") and name, on the main process; by dataset first if there
        are several.

    Raises:
        ValueError: if there is nothing to evaluate, or the numbers of classes disagree.
    """
    check_num_classes(cfg, cfg.DATASETS.TEST)
    cfg = apply_checkpoint_settings(cfg)
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint to evaluate")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return Trainer.test(cfg, optimize_by_config(model, cfg))


class _LossesReadAtOnce(SimpleTrainer):
    """Reads all losses of an iteration from the device in one copy, instead of one for each."""

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        # The device is waited for only in iterations whose metrics are gathered.
        if ((self.iter if iter is None else iter) + 1) % self.gather_metric_period:
            return
        losses = torch.stack([loss.detach().float() for loss in loss_dict.values()]).cpu()
        loss_dict = dict(zip(loss_dict, losses, strict=True))
        super()._write_metrics(loss_dict, data_time, prefix, iter)


class _AMPTrainer(_LossesReadAtOnce, AMPTrainer):
    pass


def step_trainer(
    cfg: CfgNode,
    model: nn.Module,
    data_loader: Iterable[list[dict]],
    optimizer: torch.optim.Optimizer,
) -> SimpleTrainer:
    """The object that runs one iteration, in the precision of ``SOLVER.AMP``."""
    if not cfg.SOLVER.AMP.ENABLED:
        return _LossesReadAtOnce(model, data_loader, optimizer)
    if cfg.SOLVER.AMP.DTYPE == "float16":
        if cfg.MODEL.DEVICE == "cpu":
            raise ValueError("float16 training needs a GPU; set SOLVER.AMP.DTYPE bfloat16")
        return _AMPTrainer(model, data_loader, optimizer)
    if cfg.SOLVER.AMP.DTYPE != "bfloat16":
        raise ValueError(
            f"SOLVER.AMP.DTYPE is 'float16' or 'bfloat16', not {cfg.SOLVER.AMP.DTYPE!r}"
        )
    _autocast_in_training(model, torch.device(cfg.MODEL.DEVICE).type, torch.bfloat16)
    return _LossesReadAtOnce(model, data_loader, optimizer)


def _autocast_in_training(model: nn.Module, device_type: str, dtype: torch.dtype) -> None:
    """Run the forward pass of ``model`` under autocast while it trains; bf16 needs no scaler."""
    running: list[torch.autocast] = []

    def enter(module: nn.Module, _: Any) -> None:
        if module.training:
            running.append(torch.autocast(device_type, dtype=dtype))
            running[-1].__enter__()

    def leave(*_: Any) -> None:
        if running:
            running.pop().__exit__(None, None, None)

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave, always_call=True)


def _warn_of_recipe(cfg: CfgNode) -> None:
    """Log a warning if the config departs from its recipe in a way that usually spoils training."""
    solver = cfg.SOLVER
    batch, rate = solver.REFERENCE_BATCH_SIZE, solver.REFERENCE_LR
    if batch and batch != solver.IMS_PER_BATCH and rate == solver.BASE_LR:
        logger.warning(
            "SOLVER.IMS_PER_BATCH is %d but SOLVER.BASE_LR is still the recipe's %g for %d images: "
            "set SOLVER.BASE_LR %g (and lengthen the schedule), or let SOLVER.REFERENCE_WORLD_SIZE "
            "scale both",
            solver.IMS_PER_BATCH,
            rate,
            batch,
            rate * solver.IMS_PER_BATCH / batch,
        )
    if (
        cfg.MODEL.HRNETV2P.NORM_EVAL
        and not cfg.MODEL.WEIGHTS
        and "hrnet" in cfg.MODEL.BACKBONE.NAME
    ):
        logger.warning(
            "MODEL.WEIGHTS is empty and MODEL.HRNETV2P.NORM_EVAL is True: normalization layers "
            "would keep statistics that were never measured. To train from scratch set "
            "MODEL.HRNETV2P.NORM_EVAL False"
        )
