"""Settings of a recipe for COCO that do not suit small data of one's own, replaced if not given."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

__all__ = ["suit_own_data"]

# Key -> (value for own data, Detectron2's default and those of the configs, what it means).
# The first value of CHECKPOINT_PERIOD and EVAL_PERIOD is explained in schedule.py.
_SETTINGS: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "SOLVER.CHECKPOINT_PERIOD": (0, (1000, 5000, 7330), "save after about an epoch"),
    "SOLVER.CHECKPOINT_MINUTES": (10, (0,), "and after 10 minutes"),
    "SOLVER.CHECKPOINTS_TO_KEEP": (3, (0,), "keep the last three"),
    "TEST.EVAL_PERIOD": (-1, (0, 7330), "evaluate after about an epoch"),
    "TEST.VAL_LOSS": (True, (False,), "and measure the losses on the validation data"),
}


def suit_own_data(cfg: CfgNode, given: Sequence[str]) -> list[str]:
    """Set what suits small data, in place, where neither the shell nor a file says otherwise.

    Args:
        cfg: of a training on data given by path; not frozen.
        given: keys and values from the shell.

    Returns:
        What was assumed: a line for each key, to be shown.
    """
    assumed = []
    for key, (value, usual, meaning) in _SETTINGS.items():
        *parents, name = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        if key.startswith("TEST.") and not cfg.DATASETS.TEST:
            continue
        never = key == "SOLVER.CHECKPOINT_PERIOD" and _is_never_reached(cfg)
        if not never and (key in given[::2] or node[name] not in usual):
            continue
        node[name] = value
        assumed.append(f"{key} {value} ({meaning})")
    return assumed


def _is_never_reached(cfg: CfgNode) -> bool:
    return cfg.SOLVER.EPOCHS <= 0 and cfg.SOLVER.CHECKPOINT_PERIOD >= cfg.SOLVER.MAX_ITER
