"""Values of a config that cannot work, found before anything is built.

By the rules of each key (``config_rules.py``) and those between keys, which stand here. Training,
evaluation and :class:`hrnet_d2.Predictor` check a config by them.
"""

import difflib
import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.logger import log_first_n

from .config import add_hrnet_config
from .config_file import ConfigError, flat_keys, lookup
from .config_parts import head_levels, part_problems
from .config_rules import LEVELS, RULES, Rule, is_fcos, is_whole

__all__ = ["check_config"]

ONLY_TRAINING = ("SOLVER.", "DATALOADER.")


def check_config(cfg: CfgNode, *, train: bool = True) -> None:
    """Check every value that has a rule, and rules between keys; warn of what has no effect.

    Args:
        cfg: a full config.
        train: also what only training reads.

    Raises:
        ConfigError: with every problem: key, value, what is allowed.
    """
    problems = list(_empty(cfg, train))
    for key, rule in RULES.items():
        if not train and key.startswith(ONLY_TRAINING):
            continue
        value = lookup(cfg, key)
        if value is None or not rule.needed(cfg):
            continue
        try:
            holds = rule.holds(value)
        except (TypeError, ValueError, AttributeError):
            holds = False
        if not holds:
            problems.append(f"{key} is {value!r}, it must be {rule.allowed}{_near(rule, value)}")
    for check in BETWEEN_KEYS:
        try:
            problems += check(cfg, train)
        except (AttributeError, IndexError, TypeError, ValueError):
            if not problems:  # else it is for one of them
                raise
    if problems:
        raise ConfigError(
            problems[0]
            if len(problems) == 1
            else "\n  - ".join(["The config cannot work:", *problems])
        )
    for doubt in _doubts(cfg) if train else ():
        log_first_n(logging.WARNING, doubt, name=__name__, key="message")


def _empty(cfg: CfgNode, train: bool) -> Iterable[str]:
    """Keys without a value, as ``MAX_ITER:`` alone in a line of YAML leaves them."""
    for key, default in _defaults().items():
        if default is None or (not train and key.startswith(ONLY_TRAINING)):
            continue
        if lookup(cfg, key, default) is None:
            yield f"{key} has no value (None): delete it, or write one, such as {default!r}"


@functools.cache
def _defaults() -> dict[str, Any]:
    cfg = get_cfg()
    add_hrnet_config(cfg)
    return {key: lookup(cfg, key) for key in flat_keys(cfg)}


def _doubts(cfg: CfgNode) -> Iterable[str]:
    """What works, and hardly as it was meant."""
    solver = cfg.SOLVER
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME != "WarmupCosineLR":
        yield (
            f"SOLVER.STEPS {tuple(solver.STEPS)}: the learning rate is not reduced at "
            f"{', '.join(map(str, late))}, since training ends at SOLVER.MAX_ITER {solver.MAX_ITER}"
        )
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        yield (
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS}: the warmup never ends and SOLVER.BASE_LR "
            f"is not reached, since training ends at SOLVER.MAX_ITER {solver.MAX_ITER}"
        )


# ---- Rules between keys: each returns its problems


def _check_schedule(cfg: CfgNode, train: bool) -> Iterable[str]:
    steps = list(cfg.SOLVER.STEPS)
    if (
        train
        and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
        and steps != sorted(set(steps))
    ):
        yield f"SOLVER.STEPS is {tuple(steps)}, the iterations must increase"
    elif train and cfg.SOLVER.MAX_ITER in steps:
        yield (
            f"SOLVER.STEPS is {tuple(steps)}, its iterations must be less than SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}"
        )


def _check_pixels(cfg: CfgNode, train: bool) -> Iterable[str]:
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    for key, value in (("MODEL.PIXEL_MEAN", mean), ("MODEL.PIXEL_STD", std)):
        if len(value) != channels:
            yield (
                f"{key} has {len(value)} values, images of INPUT.FORMAT {cfg.INPUT.FORMAT} have "
                f"{channels} channels"
            )


def _check_levels(cfg: CfgNode, train: bool) -> Iterable[str]:
    """The neck must make every level that the heads read."""
    node = cfg.MODEL.HRNETV2P
    neck = node.NECK
    if cfg.MODEL.BACKBONE.NAME != "build_hrnetv2p_backbone" or not is_whole(neck.NUM_OUTS):
        return
    if list(node.OUT_FEATURES) != [level for level in LEVELS if level in node.OUT_FEATURES]:
        yield f"MODEL.HRNETV2P.OUT_FEATURES is {node.OUT_FEATURES}, the order must be {LEVELS}"
        return
    made = _neck_levels(node)
    for key, levels in head_levels(cfg).items():
        missing = [level for level in levels if level not in made]
        if missing:
            yield (
                f"{key} names {', '.join(missing)}, but with MODEL.HRNETV2P.NECK.NUM_OUTS "
                f"{neck.NUM_OUTS} and STRIDE {neck.STRIDE} the neck makes {', '.join(made)}"
            )


def _neck_levels(node: CfgNode) -> list[str]:
    """Names of the neck's outputs, finest first."""
    finest = 2 + LEVELS.index(node.OUT_FEATURES[0]) if node.OUT_FEATURES else 2
    first = finest + (1 if node.NECK.STRIDE == 2 else 0)
    return [f"p{first + i}" for i in range(node.NECK.NUM_OUTS)]


def _check_fcos(cfg: CfgNode, train: bool) -> Iterable[str]:
    if not is_fcos(cfg):
        return
    node = cfg.MODEL.FCOS
    if len(node.SIZES_OF_INTEREST) != len(node.IN_FEATURES) - 1:
        yield (
            f"MODEL.FCOS.SIZES_OF_INTEREST has {len(node.SIZES_OF_INTEREST)} bounds, the "
            f"{len(node.IN_FEATURES)} levels of MODEL.FCOS.IN_FEATURES need one less than levels"
        )


def _check_sizes(cfg: CfgNode, train: bool) -> Iterable[str]:
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if train and cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        yield (
            f"INPUT.MIN_SIZE_TRAIN is {tuple(sizes)}, INPUT.MIN_SIZE_TRAIN_SAMPLING 'range' needs "
            "the least and the most"
        )


def _check_augmentation(cfg: CfgNode, train: bool) -> Iterable[str]:
    if not train:
        return
    node = cfg.INPUT
    jitter, mixed = node.SCALE_JITTER, [k for k in ("MOSAIC", "COPY_PASTE") if node[k].PROB > 0]
    if jitter.ENABLED and jitter.MIN_SCALE > jitter.MAX_SCALE:
        yield (
            f"INPUT.SCALE_JITTER.MIN_SCALE is {jitter.MIN_SCALE}, above its MAX_SCALE "
            f"{jitter.MAX_SCALE}"
        )
    if node.CROP.ENABLED and node.CROP.TYPE.startswith("relative") and max(node.CROP.SIZE) > 1:
        yield (
            f"INPUT.CROP.SIZE is {list(node.CROP.SIZE)}, parts of the image (INPUT.CROP.TYPE "
            f"{node.CROP.TYPE!r}) are at most 1"
        )
    if node.COLOR_JITTER.SATURATION > 0 and node.FORMAT not in ("BGR", "RGB"):
        yield f"INPUT.COLOR_JITTER.SATURATION is not for INPUT.FORMAT {node.FORMAT!r}"
    if jitter.ENABLED and node.BACKEND != "opencv" and _reads_semantic_maps(cfg):
        yield "INPUT.SCALE_JITTER with HTC's semantic branch needs INPUT.BACKEND 'opencv'"
    for key in mixed:
        if cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
            yield f"INPUT.{key} is not for keypoints or precomputed proposals"
        if cfg.MODEL.MASK_ON and (node.MASK_FORMAT, node.BACKEND) != ("bitmask", "opencv"):
            yield (
                f"INPUT.{key} of a model of masks needs INPUT.MASK_FORMAT 'bitmask' and "
                "INPUT.BACKEND 'opencv'"
            )


def _check_optimize(cfg: CfgNode, train: bool) -> Iterable[str]:
    node = cfg.MODEL.OPTIMIZE
    for key in ("COMPILE", "CUDA_GRAPHS"):
        if node.ENABLED and node.BACKEND == "openvino" and node[key]:
            yield f"MODEL.OPTIMIZE.{key} is for MODEL.OPTIMIZE.BACKEND 'torch', not for 'openvino'"


def _reads_semantic_maps(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.META_ARCHITECTURE == "HybridTaskCascade" and cfg.MODEL.HTC.SEMANTIC_ON)


BETWEEN_KEYS: tuple[Callable[[CfgNode, bool], Iterable[str]], ...] = (
    _check_schedule,
    _check_pixels,
    _check_levels,
    _check_fcos,
    _check_sizes,
    _check_augmentation,
    _check_optimize,
    part_problems,
)


def _near(rule: Rule, value: Any) -> str:
    """The allowed name that a misspelt one is closest to."""
    if not isinstance(value, str) or not rule.allowed.startswith("one of"):
        return ""
    names = [name.strip("'") for name in rule.allowed.removeprefix("one of ").split(", ")]
    near = difflib.get_close_matches(value, names, n=1)
    near = near or [name for name in names if name and name.lower() == value.lower()]
    return f"; did you mean {near[0]!r}?" if near else ""
