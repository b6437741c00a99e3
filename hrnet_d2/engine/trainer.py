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
    hooks,
)
from detectron2.engine.train_loop import HookBase
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from hrnet_d2.checkpoint import (
    Checkpointer,
    CheckpointError,
    UnsafeCheckpointError,
    find_last,
)
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import (
    build_test_loader,
    build_train_loader,
    check_datasets,
    check_num_classes,
)
from hrnet_d2.data.resumable import stream_of
from hrnet_d2.devices import explain_missing_operator
from hrnet_d2.evaluation import build_evaluator
from hrnet_d2.inference.optimize import optimize_by_config
from hrnet_d2.modeling import build_model
from hrnet_d2.modeling.arithmetic import training_config
from hrnet_d2.solver import build_optimizer

from . import progress, run_folder
from .hooks import DivergedError, Interruption, PeriodicCheckpointer, Seeding, check_weights
from .memory import explain_out_of_memory
from .resuming import (
    all_changes,
    check_optimizer_state,
    check_progress,
    report_changes,
    run_settings,
)

__all__ = ["Trainer", "evaluate", "step_trainer"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """``DefaultTrainer``, on GPUs or CPU ranks, in fp32, fp16 or bf16."""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: a full config.

        Raises:
            ConfigError: if a value of the config cannot work, or a dataset does not exist.
            ValueError: if the model's number of classes is not the dataset's, or the config's
                precision is unknown; before anything is built.
        """
        # DefaultTrainer's own constructor would give a GPU to every rank.
        TrainerBase.__init__(self)
        check_config(cfg)
        check_datasets(cfg, training=True)
        check_num_classes(cfg)
        cfg = _starting_settings(cfg)
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
        progress.mark_forward(model)
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
        self._stream = stream_of(data_loader)
        self._resumed: dict[str, Any] | None = None
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks; weights that diverged are not saved, and a signal saves a checkpoint.

        With ``SEED`` set, every iteration has its own random numbers, so that a resumed run is the
        same as one that was not interrupted.
        """
        found = super().build_hooks()
        saver = next((h for h in found if isinstance(h, hooks.PeriodicCheckpointer)), None)
        checkpointer = None
        if saver is not None:
            checkpointer = self.checkpointer
            found[found.index(saver)] = PeriodicCheckpointer(checkpointer, saver.period)
        found.append(Interruption(checkpointer))
        if self.cfg.SEED >= 0 and self._stream is not None:
            found.append(Seeding(self._stream, comm.get_rank()))
        return found

    def train(self) -> Any:
        """Train from ``start_iter`` to ``max_iter``; no other process may use the output folder.

        Returns:
            Results of the evaluation, if ``TEST.EXPECTED_RESULTS`` are set.

        Raises:
            RunFolderError: if another run is using the output folder.
            DivergedError: if losses or weights are no longer finite.
        """
        if comm.is_main_process():
            run_folder.claim(self.cfg.OUTPUT_DIR)
        try:
            return super().train()
        except FloatingPointError as error:
            if isinstance(error, DivergedError):
                raise
            raise DivergedError(
                f"Training has diverged at iteration {self.iter} (learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g}): lower SOLVER.BASE_LR "
                f"({self.cfg.SOLVER.BASE_LR:g}), or lengthen SOLVER.WARMUP_ITERS "
                f"({self.cfg.SOLVER.WARMUP_ITERS}). {error}"
            ) from error
        finally:
            if comm.is_main_process():
                run_folder.release(self.cfg.OUTPUT_DIR)

    def run_step(self) -> None:
