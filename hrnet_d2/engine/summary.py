"""The settings of a run that matter, on one screen."""

import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.utils import comm

from hrnet_d2.data import num_classes

from .evaluating import best_metric_name
from .schedule import Epochs

__all__ = ["log_summary"]

logger = logging.getLogger(__name__)


def log_summary(cfg: CfgNode, epochs: Epochs) -> None:
    """Log what is trained, on what and how; the other keys are in ``config.yaml``.

    Args:
        cfg: as it is trained with.
        epochs: of the training data.
    """
    rows = {
        "model": _model(cfg),
        "weights": cfg.MODEL.WEIGHTS or "none: from scratch",
        "data": _data(cfg, epochs),
        "input": _input(cfg),
        "batch": _batch(cfg),
        "optimizer": _optimizer(cfg),
        "length": f"{epochs.describe(cfg.SOLVER.MAX_ITER)}, {_schedule(cfg)}",
        "evaluation": _evaluation(cfg, epochs),
        "checkpoints": _checkpoints(cfg, epochs),
        "output": f"{cfg.OUTPUT_DIR} (all keys: config.yaml, all messages: log.txt)",
    }
    lines = [f"  {name:<12} {value}" for name, value in rows.items()]
    logger.info("Training with\n%s", "\n".join(lines))


def _model(cfg: CfgNode) -> str:
    model = cfg.MODEL
    name = model.META_ARCHITECTURE
    if name in ("GeneralizedRCNN", "HybridTaskCascade"):
        name += f", {model.ROI_HEADS.NAME}" + (", masks" if model.MASK_ON else "")
    if "hrnet" in model.BACKBONE.NAME:
        name += f", HRNet-W{model.HRNETV2P.WIDTH}"
    classes = num_classes(cfg)
    return name if classes is None else f"{name}, {classes[1]} classes"


def _data(cfg: CfgNode, epochs: Epochs) -> str:
    images = "" if epochs.images is None else f" ({epochs.images} images)"
    names = _names(cfg, cfg.DATASETS.TRAIN) + images
    return f"{names}; evaluated on {_names(cfg, cfg.DATASETS.TEST) or 'nothing'}"


def _names(cfg: CfgNode, datasets: Sequence[str]) -> str:
    """Names of datasets; those of one's own are known by the folders of their images."""
    here = os.path.join(os.getcwd(), "")
    own = {entry["NAME"]: entry["IMAGES"].removeprefix(here) for entry in cfg.DATASETS.OWN}
    return ", ".join(own.get(name, name) for name in datasets)


def _input(cfg: CfgNode) -> str:
    if not any(cfg.INPUT.MIN_SIZE_TRAIN):
        return "images as they are"
    sides = "/".join(map(str, cfg.INPUT.MIN_SIZE_TRAIN))
    return f"shorter side {sides}, longer at most {cfg.INPUT.MAX_SIZE_TRAIN}"


def _batch(cfg: CfgNode) -> str:
    solver, processes = cfg.SOLVER, comm.get_world_size()
    text = f"{solver.IMS_PER_BATCH} images in {processes} process{'es' * (processes > 1)}"
    if solver.ACCUMULATE_STEPS > 1:
        text += f", in {solver.ACCUMULATE_STEPS} parts"
    kind = solver.AMP.DTYPE if solver.AMP.ENABLED else "float32"
    return f"{text}, on {cfg.MODEL.DEVICE} in {kind}"


def _optimizer(cfg: CfgNode) -> str:
    solver = cfg.SOLVER
    text = f"{solver.OPTIMIZER}, rate {solver.BASE_LR:g}, decay {solver.WEIGHT_DECAY:g}"
    if solver.LAYER_DECAY < 1:
        text += f", layer decay {solver.LAYER_DECAY:g}"
    if solver.EMA.ENABLED:
        text += f"; weights averaged with decay {solver.EMA.DECAY:g}"
    return text


def _schedule(cfg: CfgNode) -> str:
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = ", ".join(map(str, solver.STEPS))
        text = f"rate times {solver.GAMMA:g} at {steps}" if steps else "constant rate"
    else:
        text = solver.LR_SCHEDULER_NAME
    return f"{text}, warm-up {solver.WARMUP_ITERS} iterations"


def _evaluation(cfg: CfgNode, epochs: Epochs) -> str:
    if not cfg.DATASETS.TEST:
        return "none"
    period = cfg.TEST.EVAL_PERIOD
    text = f"every {epochs.describe(period)}" if period else "at the end"
    text += f", best by {best_metric_name(cfg)}"
    if cfg.TEST.PATIENCE:
        text += f", ends after {cfg.TEST.PATIENCE} without a better one"
    return text


def _checkpoints(cfg: CfgNode, epochs: Epochs) -> str:
    solver = cfg.SOLVER
    text = f"every {epochs.describe(solver.CHECKPOINT_PERIOD)}"
    if solver.CHECKPOINT_MINUTES:
        text += f" and {solver.CHECKPOINT_MINUTES:g} minutes"
    if solver.CHECKPOINTS_TO_KEEP:
        text += f", the last {solver.CHECKPOINTS_TO_KEEP} kept"
    return text
