"""Resuming a run: what the checkpoint must have, and what differs from the run that wrote it."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from hrnet_d2.checkpoint import CheckpointError

__all__ = [
    "all_changes",
    "check_optimizer_state",
    "check_progress",
    "follow_schedule",
    "parameter_names",
    "regroup",
    "report_changes",
    "run_settings",
]

logger = logging.getLogger(__name__)

# Keys whose new values a resumed run takes, from the resumed iteration on.
SETTINGS = (
    "DATALOADER.MAX_BAD_IMAGES",
    "DATASETS.TRAIN",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TRAIN",
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.HRNETV2P.FREEZE_AT",
    "SOLVER.ACCUMULATE_STEPS",
    "SOLVER.AMP.ENABLED",
    "SOLVER.BASE_LR",
    "SOLVER.BASE_LR_END",
    "SOLVER.BETAS",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.CONV_BIAS_LR_FACTOR",
    "SOLVER.CONV_BIAS_WEIGHT_DECAY",
    "SOLVER.EMA.DECAY",
    "SOLVER.EMA.ENABLED",
    "SOLVER.GAMMA",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.LAYER_DECAY",
    "SOLVER.LR_SCHEDULER_NAME",
    "SOLVER.MAX_ITER",
    "SOLVER.MOMENTUM",
    "SOLVER.NESTEROV",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_FACTOR",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.WEIGHT_DECAY_NORM",
)
# Keys that must stay as they are: the weights would mean something else.
FIXED = ("DATASETS.CLASS_NAMES", "SOLVER.OPTIMIZER")
KEYS = (*SETTINGS, *FIXED)


def run_settings(cfg: CfgNode, class_names: Sequence[str] = ()) -> dict[str, Any]:
    """The values of the config that a resumed run is compared by, as plain values.

    Args:
        cfg: the full config.
        class_names: of the training data, if the config has none.
    """
    settings = {key: _plain(_lookup(cfg, key)) for key in KEYS}
    settings["DATASETS.CLASS_NAMES"] = settings["DATASETS.CLASS_NAMES"] or list(class_names)
    return settings


def report_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log the keys whose values differ; all of them take effect.

    Raises:
        CheckpointError: if a key differs that cannot take effect.
    """
    # Class names may be unknown.
    known = [key for key in FIXED if before.get(key) and now[key]]
    if fixed := _changes(known, before, now):
        raise CheckpointError(
            f"A run cannot be resumed with other values of {fixed}. Restore them, or start a new "
            "run with the weights as MODEL.WEIGHTS (for other classes with MODEL.PARTIAL_LOAD "
            "True), without --resume"
        )
    changes = _changes(SETTINGS, before, now)
    if changes:
        logger.warning("Resuming with settings that differ from the run's before: %s", changes)


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in the order of its saved state."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def regroup(
    state: Mapping[str, Any], saved: Sequence[str] | None, now: Sequence[str], own: Mapping
) -> Mapping[str, Any]:
    """A saved optimizer state, grouped and set as in this run.

    Args:
        state: the saved ``state_dict``.
        saved: names of its parameters; None in checkpoints that do not have them.
        now: names of the parameters of this run's optimizer.
        own: the ``state_dict`` of this run's optimizer.

    Returns:
        What this run's optimizer can load: its own groups, with the saved averages of gradients. A
        parameter that was frozen begins without. The saved state itself if there are no names.
    """
    if saved is None or not isinstance(state, Mapping) or "state" not in state:
        return state
    known = {name: state["state"][i] for i, name in enumerate(saved) if i in state["state"]}
    kept = {i: known[name] for i, name in enumerate(now) if name in known}
    return {"state": kept, "param_groups": own["param_groups"]}


def follow_schedule(optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> None:
    """Set the rates for the resumed iteration, after the states of both were loaded.

    Args:
        optimizer: whose groups have the "initial_lr" of this run.
        scheduler: of this optimizer, at the resumed iteration.
    """
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate


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
    hint = f"These keys differ: {changes}" if changes else "Compare the config of that run"
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


def _changes(keys: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} ({before[key]!r} before, {now[key]!r} now)"
        for key in keys
        if key in before and key in now and before[key] != now[key]
    )


def all_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Every key that differs, with both values."""
    return _changes(KEYS, before, now)


def _lookup(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
