"""Resuming a run: what the checkpoint must have, and what differs from the run that wrote it."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode

from hrnet_d2.checkpoint import CheckpointError

__all__ = [
    "all_changes",
    "check_optimizer_state",
    "check_progress",
    "report_changes",
    "run_settings",
]

logger = logging.getLogger(__name__)

# A resumed run goes on with the optimizer's own values of these, from the checkpoint.
FROM_CHECKPOINT = (
    "SOLVER.BASE_LR",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.CONV_BIAS_LR_FACTOR",
    "SOLVER.CONV_BIAS_WEIGHT_DECAY",
    "SOLVER.MOMENTUM",
    "SOLVER.NESTEROV",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.WEIGHT_DECAY_NORM",
)
# These take effect from the resumed iteration on.
FROM_CONFIG = (
    "DATASETS.TRAIN",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TRAIN",
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.HRNETV2P.FREEZE_AT",
    "SOLVER.AMP.ENABLED",
    "SOLVER.GAMMA",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.LR_SCHEDULER_NAME",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
)
# Keys that decide which parameters the optimizer has, and how they are grouped.
GROUPING = (
    "MODEL.HRNETV2P.FREEZE_AT, MODEL.BACKBONE.FREEZE_AT, SOLVER.WEIGHT_DECAY, "
    "SOLVER.WEIGHT_DECAY_NORM, SOLVER.WEIGHT_DECAY_BIAS, SOLVER.BIAS_LR_FACTOR, "
    "SOLVER.CONV_BIAS_LR_FACTOR or SOLVER.CONV_BIAS_WEIGHT_DECAY"
)


def run_settings(cfg: CfgNode) -> dict[str, Any]:
    """The values of the config that a resumed run is compared by, as plain values."""
    return {key: _plain(_lookup(cfg, key)) for key in (*FROM_CHECKPOINT, *FROM_CONFIG)}


def report_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log one line for the keys whose new values are not used, and one for those that are."""
    kept = _changes(FROM_CHECKPOINT, before, now)
    if kept:
        logger.warning(
            "Resuming with the values of the checkpoint, not of the config, for %s. To train with "
            "the config's, start a new run (no --resume) from these weights (MODEL.WEIGHTS)",
            kept,
        )
    new = _changes(FROM_CONFIG, before, now)
    if new:
        logger.warning("The config differs from that of the resumed run: %s", new)


def check_optimizer_state(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, changes: str
) -> None:
    """Check that a saved optimizer state is that of this optimizer, before it is loaded.

    Args:
        state: the optimizer's saved ``state_dict``.
        optimizer: that is to load it.
        changes: keys that differ between the saved run and the config; may be empty.

    Raises:
        CheckpointError: if groups, parameters or shapes differ, or values are not finite numbers.
    """
    if not isinstance(state, Mapping) or not {"state", "param_groups"} <= state.keys():
        raise CheckpointError(
            "The checkpoint has no usable optimizer state, so the run cannot be resumed: start a "
            "new run with its weights as MODEL.WEIGHTS, without --resume"
        )
    sizes = [len(group["params"]) for group in state["param_groups"]]
    own = [len(group["params"]) for group in optimizer.param_groups]
    hint = f"These keys differ: {changes}" if changes else f"Compare {GROUPING}"
    if sizes != own:
        raise CheckpointError(
            f"The checkpoint's optimizer has groups of {sizes} parameters, this run's has {own}: "
            f"other layers are frozen, or learning rates and weight decays are grouped otherwise. "
            f"{hint}. Restore them, or start a new run with the weights as MODEL.WEIGHTS, without "
            "--resume"
        )
    for place, group in enumerate(state["param_groups"]):
        for name, value in group.items():
            own_value = optimizer.param_groups[place].get(name)
            if name != "params" and _is_number(own_value) and not _is_number(value):
                raise CheckpointError(
                    f"The optimizer state of the checkpoint has {name} {value!r} in group {place}, "
                    "which is not a finite number: resume from an earlier checkpoint"
                )
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in state["state"].get(number, {}).items():
            if not isinstance(value, torch.Tensor) or value.dim() == 0:
                continue
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"The optimizer state of the checkpoint does not fit the model: {name} of "
                    f"parameter {number} has shape {tuple(value.shape)}, the parameter "
                    f"{tuple(parameter.shape)}. {hint}"
                )
            if not value.isfinite().all():
                raise CheckpointError(
                    f"The optimizer state of the checkpoint has values that are not finite ({name} "
                    f"of parameter {number}): resume from an earlier checkpoint"
                )


def check_progress(state: Mapping[str, Any]) -> None:
    """Check what the trainer saved of its progress: the iteration and the schedule's.

    Raises:
        CheckpointError: if these are not what a trainer saves.
    """
    problems = []
    if type(state.get("iteration")) is not int or state["iteration"] < 0:
        problems.append(f"iteration {state.get('iteration')!r}")
    hooks = state.get("hooks", {})
    if not isinstance(hooks, Mapping):
        problems.append(f"hooks {hooks!r}")
    elif not isinstance(hooks.get("LRScheduler", {}), Mapping):
        problems.append(f"schedule {hooks['LRScheduler']!r}")
    if problems:
        raise CheckpointError(
            f"The training state of the checkpoint cannot be used: {', '.join(problems)}. Resume "
            "from an earlier checkpoint, or start a new run with the weights as MODEL.WEIGHTS, "
            "without --resume"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _changes(keys: tuple[str, ...], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} ({before[key]!r} before, {now[key]!r} now)"
        for key in keys
        if key in before and key in now and before[key] != now[key]
    )


def all_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Every key that differs, with both values."""
    return _changes((*FROM_CHECKPOINT, *FROM_CONFIG), before, now)


def _lookup(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
