"""Detectron2's trainer with this package's data, checkpoints, optimizer and evaluation."""

import contextlib
import logging
import weakref
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, create_ddp_model, hooks
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter

from hrnet_d2.checkpoint import (
    Checkpointer,
    CheckpointError,
    find_last,
)
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import (
    check_datasets,
    check_num_classes,
)
from hrnet_d2.data.drawing import first_batch_drawn
from hrnet_d2.data.resumable import stream_of
from hrnet_d2.devices import explain_missing_operator
from hrnet_d2.inference.optimize import optimize_by_config
from hrnet_d2.modeling.arithmetic import training_config

from . import progress, run_folder
from .averaging import Averaging, WeightAverage, restore_weights
from .console import Progress
from .diverging import DivergedError
from .evaluating import Evaluation, StoppedEarly
from .hooks import Interruption, Seeding
from .memory import explain_out_of_memory
from .parts import Parts
from .pictures import ValidationPictures
from .resuming import (
    all_changes,
    check_optimizer_state,
    check_progress,
    follow_schedule,
    parameter_names,
    regroup,
    report_changes,
    run_settings,
)
from .saved_runs import PeriodicCheckpointer, RunCheckpointer, link_last
from .schedule import Epochs, resolve_schedule
from .setup import register_datasets
from .starting import starting_settings, warn_of_recipe
from .step import step_trainer
from .summary import log_summary
from .trackers import build_trackers
from .val_loss import ValidationLosses

__all__ = ["Trainer", "evaluate", "step_trainer"]

logger = logging.getLogger(__name__)


class Trainer(Parts):
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
        register_datasets(cfg, training=True)
        check_datasets(cfg, training=True)
        check_num_classes(cfg)
        cfg = starting_settings(cfg)
        cfg = training_config(cfg)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        warn_of_recipe(cfg)

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = first_batch_drawn(cfg, self.build_train_loader(cfg))
        self._stream = stream_of(data_loader)
        images = None if self._stream is None else len(self._stream.wide)
        self.epochs = Epochs(images, cfg.SOLVER.IMS_PER_BATCH)
        cfg = resolve_schedule(cfg, self.epochs)
        ema = cfg.SOLVER.EMA
        self.average = WeightAverage(model, ema.DECAY, ema.WARMUP) if ema.ENABLED else None
        on_cpu = cfg.MODEL.DEVICE == "cpu"
        model = create_ddp_model(
            model,
            broadcast_buffers=False,
            device_ids=None if on_cpu else [comm.get_local_rank()],
        )
        progress.mark_forward(model)
        self._trainer = step_trainer(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = RunCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            partial=cfg.MODEL.PARTIAL_LOAD,
            cfg=cfg,
            trainer=weakref.proxy(self),
        )
        self.checkpointer.average = self.average
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._resumed: dict[str, Any] | None = None
        measured = cfg.TEST.VAL_LOSS and cfg.DATASETS.TEST
        self._losses = ValidationLosses(cfg) if measured else None
        self._pictures = ValidationPictures(cfg)
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks and those of this package's keys.

        With ``TEST.AUG.ENABLED`` the last evaluation is followed by one with test-time
        augmentation, as in Detectron2's ``train_net.py``.

        Averaged weights are evaluated in place of the raw ones; weights that diverged are not
        saved; a signal saves a checkpoint. With ``SEED`` set, every iteration has its own random
        numbers, so that a resumed run is the same as one that was not interrupted.
        """
        cfg, solver = self.cfg, self.cfg.SOLVER
        found: list[HookBase] = []
        checkpointer = evaluation = None
        for hook in super().build_hooks():
            if isinstance(hook, hooks.PeriodicCheckpointer):
                checkpointer = self.checkpointer
                hook = PeriodicCheckpointer(
                    checkpointer,
                    hook.period,
                    keep=solver.CHECKPOINTS_TO_KEEP,
                    minutes=solver.CHECKPOINT_MINUTES,
                )
            elif isinstance(hook, hooks.EvalHook):
                hook = evaluation = Evaluation(cfg, self._evaluate, self.checkpointer)
            found.append(hook)
            if isinstance(hook, hooks.PeriodicWriter):
                found.insert(-1, Progress(self.epochs, hook._period, evaluation))
            if isinstance(hook, hooks.LRScheduler) and self.average is not None:
                found.append(Averaging(self.average))
        found.append(Interruption(checkpointer))
        if cfg.SEED >= 0 and self._stream is not None:
            found.append(Seeding(self._stream, comm.get_rank()))
        if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
            augmented = hooks.EvalHook(0, self._evaluate_augmented)
            # Before the writers, which then write its results.
            writers = [i for i, h in enumerate(found) if isinstance(h, hooks.PeriodicWriter)]
            found.insert(writers[0] if writers else len(found), augmented)
        return [hook for hook in found if hook is not None]

    def _evaluate(self) -> dict:
        """Evaluate the averaged weights, if there are any, or else the model.

        The losses on the validation data and the pictures are of the same weights.
        """
        cfg, model = self.cfg, self.checkpointer.model
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            self._last_eval_results = self.test(cfg, self.model)
            if self._losses is not None:
                losses = self._losses(model)
                self.storage.put_scalars(**losses, smoothing_hint=False)
                logger.info("Validation: %s", "  ".join(f"{k} {v:.4g}" for k, v in losses.items()))
            if comm.is_main_process():
                self._pictures.put(self.storage, model)
        return self._last_eval_results

    def _evaluate_augmented(self) -> dict:
        """With test-time augmentation, and averaged weights if there are any."""
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            return self.test_with_TTA(self.cfg, self.checkpointer.model)

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's, with the trackers of ``TRACKER.NAMES``; :class:`Progress` replaces its
        printer."""
        writers = [w for w in super().build_writers() if not isinstance(w, CommonMetricPrinter)]
        return [*build_trackers(self.cfg), *writers]

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
            log_summary(self.cfg, self.epochs)
        try:
            return super().train()
        except StoppedEarly as stop:
            if stop.trained:
                self.checkpointer.save("model_final", iteration=self.iter)
                if comm.is_main_process():
                    link_last(self.cfg.OUTPUT_DIR, "model_final")
            return None
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
        asking_for_memory = explain_out_of_memory(
            f"training with {self.cfg.SOLVER.IMS_PER_BATCH} images in an iteration, of up to "
            f"{max(self.cfg.INPUT.MIN_SIZE_TRAIN)} x {self.cfg.INPUT.MAX_SIZE_TRAIN} pixels",
            "SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN (with INPUT.MAX_SIZE_TRAIN), or recompute "
            "activations with MODEL.HRNETV2P.ACT_CHECKPOINT ['stage2','stage3','stage4']",
        )
        lacking = explain_missing_operator(self.cfg.MODEL.DEVICE)
        with lacking, asking_for_memory, progress.working():
            super().run_step()

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint of the output folder, or load ``MODEL.WEIGHTS``.

        A resumed run continues the optimizer, the schedule and the order of the images. With
        ``SEED`` set it continues exactly, to the bit on the CPU.

        Args:
            resume: look for a checkpoint in the output folder first.

        Raises:
            CheckpointError: if the checkpoint cannot be loaded, or has no training state.
            ConfigError: if the checkpoint is past ``SOLVER.MAX_ITER``.
        """
        self._resumed = None
        super().resume_or_load(resume)
        if self.average is not None and self._resumed is None:
            self.average.restart()
        if not (resume and self.checkpointer.has_checkpoint()):
            if resume:
                logger.info("No checkpoint in %s: this is a new run", self.cfg.OUTPUT_DIR)
            return
        file = self.checkpointer.get_checkpoint_file()
        if self._resumed is None:
            raise CheckpointError(
                f"{file} has weights but no training state (optimizer, iteration), so there is "
                "nothing to resume: start a new run with MODEL.WEIGHTS set to it, without --resume"
            )
        if self.start_iter > self.max_iter:
            raise ConfigError(
                f"{file} is of iteration {self.start_iter}, past SOLVER.MAX_ITER {self.max_iter}: "
                "raise SOLVER.MAX_ITER to train on, or evaluate it (--eval-only)"
            )
        if self.start_iter == self.max_iter:
            logger.warning(
                "%s is of iteration %d, which is SOLVER.MAX_ITER: nothing is left to train",
                *(file, self.start_iter),
            )
        self._resume_stream(self._resumed)

    def _resume_stream(self, state: Mapping[str, Any]) -> None:
        saved = state.get("data")
        if self._stream is None or saved is None:
            reason: str | None = "the checkpoint or the loader does not know it"
        else:
            reason = self._stream.resume(saved, self.start_iter)
        if reason:
            logger.warning("The order of the training images starts over (%s)", reason)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = super().state_dict()
        state["settings"] = self._settings()
        state["parameters"] = parameter_names(self.checkpointer.model, self.optimizer)
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self._stream is not None:
            state["data"] = self._stream.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: if the state is not of this model and optimizer.
        """
        check_progress(state_dict)
        before, now = state_dict.get("settings", {}), self._settings()
        report_changes(before, now)
        step = dict(state_dict.get("_trainer", {}))
        names = parameter_names(self.checkpointer.model, self.optimizer)
        step["optimizer"] = regroup(
            step.get("optimizer", {}),
            state_dict.get("parameters"),
            names,
            self.optimizer.state_dict(),
        )
        check_optimizer_state(step["optimizer"], self.optimizer, all_changes(before, now))
        super().load_state_dict({**state_dict, "_trainer": step})
        if state_dict["iteration"] < self.cfg.SOLVER.MAX_ITER:
            follow_schedule(self.optimizer, self.scheduler)
        self._load_average(state_dict.get("average"))
        self._resumed = dict(state_dict)

    def _settings(self) -> dict[str, Any]:
        return run_settings(self.cfg, self.checkpointer.class_names)

    def _load_average(self, saved: Mapping[str, Any] | None) -> None:
        """The model has the averaged weights of the checkpoint, if there are any."""
        model = self.checkpointer.model
        if self.average is None:
            if saved is not None:
                logger.warning("SOLVER.EMA.ENABLED is now False: the average ends here")
                restore_weights(model, saved)
        elif saved is None:
            logger.warning("SOLVER.EMA.ENABLED is now True: the average begins here")
            self.average.restart()
        else:
            self.average.load_state_dict(saved, model)


def evaluate(cfg: CfgNode, resume: bool = False) -> dict:
    """Evaluate a checkpoint on ``cfg.DATASETS.TEST``.

    Args:
        cfg: a full config; ``MODEL.WEIGHTS`` may be of any supported format.
        resume: take the last checkpoint of ``cfg.OUTPUT_DIR`` if there is one.

    Returns:
        Metrics by task ("bbox", "segm") and name, on the main process; by dataset first if there
        are several. With ``TEST.AUG.ENABLED`` also those with test-time augmentation, under keys
        that end with "_TTA".

    Raises:
        ValueError: if there is nothing to evaluate, or the numbers of classes disagree.
    """
    check_config(cfg, train=False)
    register_datasets(cfg, training=False)
    check_datasets(cfg, training=False)
    check_num_classes(cfg, cfg.DATASETS.TEST)
    last = find_last(cfg.OUTPUT_DIR) if resume else ""
    cfg = apply_checkpoint_settings(cfg, weights=last)
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ConfigError("MODEL.WEIGHTS is empty: set it to the checkpoint to evaluate")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    model = optimize_by_config(model, cfg)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    return results
