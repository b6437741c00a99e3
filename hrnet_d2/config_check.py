"""Values of a config that cannot work, found before anything is built.

One table of rules for this package's keys and for Detectron2's that it reads. Training, evaluation
and :class:`hrnet_d2.Predictor` check a config by it.
"""

import difflib
import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.logger import log_first_n

from .arguments.choices import TRACKERS
from .config import add_hrnet_config
from .config_file import ConfigError, flat_keys, lookup
from .config_parts import head_levels, part_problems
from .config_parts import is_two_stage as _is_two_stage

__all__ = ["RULES", "Rule", "check_config"]

ONLY_TRAINING = ("SOLVER.", "DATALOADER.")


@dataclass(frozen=True)
class Rule:
    """What a key may be.

    Attributes:
        allowed: in words, after "must be".
        holds: whether a value is allowed.
        needed: whether the key is read at all with the rest of the config.
    """

    allowed: str
    holds: Callable[[Any], bool]
    needed: Callable[[CfgNode], bool] = lambda cfg: True


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


# ---- Kinds of values


def _number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Rule:
    """A number from ``low`` (or above it) to ``high``."""
    if high < math.inf:
        words = (
            f"a number {'above' if above else 'from'} {low:g} {'up ' if above else ''}to {high:g}"
        )
    else:
        words = f"a number {'above' if above else 'of at least'} {low:g}"
        if low == -math.inf:
            words = "a finite number"

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not math.isfinite(value):
            return False
        return (low < value if above else low <= value) and bool(value <= high)

    return Rule(words, holds)


def _whole(low: int, high: int | None = None) -> Rule:
    return Rule(
        f"a whole number of at least {low}" + ("" if high is None else f" and at most {high}"),
        lambda v: (
            isinstance(v, int)
            and not isinstance(v, bool)
            and v >= low
            and (high is None or v <= high)
        ),
    )


def _one_of(*names: str) -> Rule:
    return Rule("one of " + ", ".join(repr(n) for n in names), lambda v: v in names)


def _all(words: str, holds: Callable[[Any], bool], *, empty: bool = False) -> Rule:
    """A list whose every value is allowed."""
    return Rule(
        f"{words}{'' if empty else ' (at least one)'}",
        lambda values: (
            isinstance(values, list | tuple)
            and (empty or len(values) > 0)
            and all(map(holds, values))
        ),
    )


def _is_whole(value: Any, low: float = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_positive(value: Any) -> bool:
    return not isinstance(value, bool) and math.isfinite(value) and value > 0


def _when(rule: Rule, needed: Callable[[CfgNode], bool]) -> Rule:
    return Rule(rule.allowed, rule.holds, needed)


def _is_hrnet(cfg: CfgNode) -> bool:
    return "hrnetv2" in str(cfg.MODEL.BACKBONE.NAME)


def _is_fcos(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.META_ARCHITECTURE == "FCOS")


def _is_augmented(cfg: CfgNode) -> bool:
    return bool(cfg.TEST.AUG.ENABLED)


def _crops(cfg: CfgNode) -> bool:
    return bool(cfg.INPUT.CROP.ENABLED)


def _is_device(value: Any) -> bool:
    kind, _, number = value.partition(":")
    return kind in ("cpu", "cuda", "mps", "xpu") and (not number or number.isdigit())


NORMS = ("BN", "FrozenBN", "SyncBN", "GN", "")
STAGES = ("stage1", "stage2", "stage3", "stage4")
LEVELS = ("res2", "res3", "res4", "res5")
FRACTION = _number(0, 1)

_LEVEL_NAMES = _all("names of levels, such as 'p3'", lambda v: isinstance(v, str) and v != "")

RULES: dict[str, Rule] = {
    "OUTPUT_DIR": Rule("a folder's path", lambda v: bool(v.strip()) and "\0" not in v),
    "FLOAT32_PRECISION": _one_of("", "highest", "high", "medium"),
    "MODEL.DEVICE": Rule("'cpu', 'cuda', 'cuda:N', 'mps' or 'xpu'", _is_device),
    "MODEL.PIXEL_MEAN": _all("finite numbers", lambda v: math.isfinite(v)),
    "MODEL.PIXEL_STD": _all("numbers above 0", _is_positive),
    "MODEL.HRNETV2P.WIDTH": _when(_whole(1), _is_hrnet),
    "MODEL.HRNETV2P.NORM": _when(_one_of(*NORMS[:-1]), _is_hrnet),
    "MODEL.HRNETV2P.NORM_EVAL": _when(
        Rule("True, False or 'auto' (None)", lambda v: isinstance(v, bool) or v == "auto"),
        _is_hrnet,
    ),
    "MODEL.HRNETV2P.FREEZE_AT": _when(
        Rule("a whole number from 0 to 5", lambda v: _is_whole(v, 0) and v <= 5), _is_hrnet
    ),
    "MODEL.HRNETV2P.ACT_CHECKPOINT": _all(
        f"stages among {', '.join(STAGES)}", lambda v: v in STAGES, empty=True
    ),
    "MODEL.HRNETV2P.OUT_FEATURES": _when(
        _all(f"levels among {', '.join(LEVELS)}", lambda v: v in LEVELS), _is_hrnet
    ),
    "MODEL.HRNETV2P.NECK.OUT_CHANNELS": _when(_whole(1), _is_hrnet),
    "MODEL.HRNETV2P.NECK.NUM_OUTS": _when(_whole(1), _is_hrnet),
    "MODEL.HRNETV2P.NECK.STRIDE": _when(Rule("1 or 2", lambda v: v in (1, 2)), _is_hrnet),
    "MODEL.HRNETV2P.NECK.NORM": _when(_one_of(*NORMS), _is_hrnet),
    "MODEL.HRNETV2P.NECK.ACTIVATION": _when(_one_of("", "relu"), _is_hrnet),
    "MODEL.HRNETV2P.NECK.POOLING": _when(_one_of("avg", "max"), _is_hrnet),
    "MODEL.ANCHOR_GENERATOR.OFFSET": _when(
        Rule("a number from 0 to below 1", lambda v: 0 <= v < 1), _is_two_stage
    ),
    "MODEL.RPN.IN_FEATURES": _when(_LEVEL_NAMES, _is_two_stage),
    "MODEL.RPN.CONV_DIMS": _when(
        _all("whole numbers of at least 1, or -1 (the input's)", lambda v: v == -1 or _is_whole(v)),
        _is_two_stage,
    ),
    "MODEL.RPN.IOU_THRESHOLDS": _all("numbers", math.isfinite),
    "MODEL.RPN.LOSS_WEIGHT": _number(0),
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": _number(0),
    "MODEL.RPN.MIN_POS_IOU": _number(-1, 1),
    "MODEL.RPN.LOSS_NORMALIZER": _one_of("sampled", "batch_size"),
    "MODEL.RPN.NMS_THRESH": FRACTION,
    "MODEL.RPN.POSITIVE_FRACTION": FRACTION,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": _whole(1),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": _whole(1),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": _whole(1),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": _whole(1),
    "MODEL.RPN.POST_NMS_TOPK_TEST": _whole(1),
    "MODEL.ROI_HEADS.IN_FEATURES": _when(_LEVEL_NAMES, _is_two_stage),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": _all("numbers", math.isfinite),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": _number(0),
    "MODEL.ROI_HEADS.NUM_CLASSES": _when(_whole(1), _is_two_stage),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": _whole(1),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": FRACTION,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": FRACTION,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": FRACTION,
    "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS": _all(
        "numbers of at least 0", lambda v: math.isfinite(v) and v >= 0
    ),
    "MODEL.ROI_BOX_CASCADE_HEAD.SCORE_FUSION": _one_of("logits", "probabilities"),
    "MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT_SCALE": _number(0),
    "MODEL.HTC.MASK_TEST": _one_of("avg", "last"),
    "MODEL.FCOS.IN_FEATURES": _when(_LEVEL_NAMES, _is_fcos),
    "MODEL.FCOS.NUM_CLASSES": _when(_whole(1), _is_fcos),
    "MODEL.FCOS.NUM_CONVS": _when(_whole(0), _is_fcos),
    "MODEL.FCOS.NORM": _when(_one_of(*NORMS), _is_fcos),
    "MODEL.FCOS.SIZES_OF_INTEREST": _when(
        Rule(
            "increasing numbers above 0",
            lambda v: all(map(_is_positive, v)) and list(v) == sorted(set(v)),
        ),
        _is_fcos,
    ),
    "MODEL.FCOS.PRIOR_PROB": _when(Rule("a number between 0 and 1", lambda v: 0 < v < 1), _is_fcos),
    "MODEL.FCOS.FOCAL_LOSS_GAMMA": _when(_number(0), _is_fcos),
    "MODEL.FCOS.FOCAL_LOSS_ALPHA": _when(_number(-1, 1), _is_fcos),
    "MODEL.FCOS.BOX_LOSS": _when(_one_of("iou", "giou", "diou"), _is_fcos),
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": _when(_number(0), _is_fcos),
    "MODEL.FCOS.SCORE_THRESH_TEST": _when(FRACTION, _is_fcos),
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": _when(_whole(1), _is_fcos),
    "MODEL.FCOS.NMS_THRESH_TEST": _when(FRACTION, _is_fcos),
    "MODEL.OPTIMIZE.BACKEND": _one_of("torch", "openvino", "inductor", "auto"),
    "MODEL.OPTIMIZE.CHANNELS_LAST": _one_of("on", "off", "auto"),
    "MODEL.OPTIMIZE.DTYPE": _one_of("float32", "bfloat16", "float16", "auto"),
    "MODEL.OPTIMIZE.SIZE_BUCKET": _whole(0),
    "VIS_FIRST_BATCH": _one_of("on", "off", "auto"),
    "INPUT.BACKEND": _one_of("opencv", "detectron2"),
    "INPUT.FORMAT": _one_of("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": _one_of("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": _one_of("none", "horizontal", "vertical"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MIN_SIZE_TRAIN": _all(
        "whole numbers of at least 0 (0: as they are)", lambda v: _is_whole(v, 0)
    ),
    "INPUT.MAX_SIZE_TRAIN": _whole(1),
    "INPUT.MIN_SIZE_TEST": _whole(0),
    "INPUT.MAX_SIZE_TEST": _whole(1),
    "INPUT.MIN_BOX_SIZE": _number(0),
    "INPUT.CROP.TYPE": _when(
        _one_of("relative_range", "relative", "absolute", "absolute_range"), _crops
    ),
    "INPUT.CROP.SIZE": _when(
        Rule("two numbers above 0", lambda v: len(v) == 2 and all(map(_is_positive, v))), _crops
    ),
    "INPUT.SCALE_JITTER.MIN_SCALE": _number(0, above=True),
    "INPUT.SCALE_JITTER.MAX_SCALE": _number(0, above=True),
    "INPUT.SCALE_JITTER.SIZE": Rule(
        "a height and a width, whole numbers of at least 1",
        lambda v: len(v) == 2 and all(map(_is_whole, v)),
    ),
    "INPUT.COLOR_JITTER.BRIGHTNESS": FRACTION,
    "INPUT.COLOR_JITTER.CONTRAST": FRACTION,
    "INPUT.COLOR_JITTER.SATURATION": FRACTION,
    "INPUT.MOSAIC.PROB": FRACTION,
    "INPUT.COPY_PASTE.PROB": FRACTION,
    "INPUT.COPY_PASTE.MAX_OBJECTS": _whole(1),
    "DATASETS.OWN": _all(
        "mappings with NAME, JSON, IMAGES and, if there is one, SEM_SEG",
        lambda v: isinstance(v, Mapping),
        empty=True,
    ),
    "VIS_PERIOD": _whole(0),
    "TEST.EVAL_PERIOD": Rule(
        "a whole number of at least 1, 0 (only at the end) or -1 (about an epoch)",
        lambda v: _is_whole(v, -1),
    ),
    "TEST.PATIENCE": _whole(0),
    "TEST.PICTURES": _whole(0),
    "TRACKER.NAMES": _all("'wandb' or 'mlflow'", lambda v: v in TRACKERS, empty=True),
    "TEST.DETECTIONS_PER_IMAGE": _whole(1),
    "TEST.AUG.MIN_SIZES": _when(
        _all("whole numbers of at least 0 (0: as they are)", lambda v: _is_whole(v, 0)),
        _is_augmented,
    ),
    "TEST.AUG.MAX_SIZE": _when(_whole(1), _is_augmented),
    "DATALOADER.NUM_WORKERS": Rule(
        "a whole number from 0 to 1024 (processes that load data)",
        lambda v: _is_whole(v, 0) and v <= 1024,
    ),
    "SEED": Rule(
        "a whole number below 2**32 (negative: a random seed)",
        lambda v: _is_whole(v, -math.inf) and v < 2**32,
    ),
    "DATALOADER.SAMPLER_TRAIN": _one_of(
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ),
    "DATALOADER.REPEAT_THRESHOLD": _number(0),
    "SOLVER.MAX_ITER": _whole(1),
    # A batch is collected before anything is computed: with more it would seem to hang.
    "SOLVER.IMS_PER_BATCH": _whole(1, 2**16),
    "SOLVER.BASE_LR": _number(0, above=True),
    "SOLVER.MOMENTUM": Rule("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "SOLVER.WEIGHT_DECAY": _number(0),
    "SOLVER.WEIGHT_DECAY_NORM": _number(0),
    "SOLVER.WEIGHT_DECAY_BIAS": _number(0),
    "SOLVER.BIAS_LR_FACTOR": _number(0),
    "SOLVER.CONV_BIAS_LR_FACTOR": _number(0),
    "SOLVER.CONV_BIAS_WEIGHT_DECAY": _number(),
    "SOLVER.GAMMA": _number(0, above=True),
    "SOLVER.STEPS": _all("whole numbers of at least 1", _is_whole, empty=True),
    "SOLVER.WARMUP_ITERS": _whole(0),
    "SOLVER.WARMUP_FACTOR": FRACTION,
    "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
    "SOLVER.LR_SCHEDULER_NAME": _one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
    ),
    "SOLVER.CHECKPOINT_PERIOD": _whole(0),
    "SOLVER.CHECKPOINT_MINUTES": _whole(0),
    "SOLVER.CHECKPOINTS_TO_KEEP": _whole(0),
    "SOLVER.EPOCHS": _whole(0),
    "SOLVER.ACCUMULATE_STEPS": _whole(1),
    "SOLVER.OPTIMIZER": _one_of("SGD", "AdamW"),
    "SOLVER.BETAS": Rule(
        "two numbers from 0 to below 1", lambda v: len(v) == 2 and all(0 <= b < 1 for b in v)
    ),
    "SOLVER.LAYER_DECAY": _number(0, 1, above=True),
    "SOLVER.EMA.DECAY": Rule("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "SOLVER.MAX_NONFINITE": _whole(0),
    "DATALOADER.MAX_BAD_IMAGES": _whole(0, 10**6),
    "SOLVER.REFERENCE_WORLD_SIZE": _whole(0),
    "SOLVER.REFERENCE_BATCH_SIZE": _whole(0),
    "SOLVER.REFERENCE_LR": _number(0),
    "SOLVER.AMP.DTYPE": _one_of("float16", "bfloat16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _one_of("value", "norm", "full_model"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _number(0, above=True),
}


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
    if cfg.MODEL.BACKBONE.NAME != "build_hrnetv2p_backbone" or not _is_whole(neck.NUM_OUTS):
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
    if not _is_fcos(cfg):
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


def _reads_semantic_maps(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.META_ARCHITECTURE == "HybridTaskCascade" and cfg.MODEL.HTC.SEMANTIC_ON)


BETWEEN_KEYS: tuple[Callable[[CfgNode, bool], Iterable[str]], ...] = (
    _check_schedule,
    _check_pixels,
    _check_levels,
    _check_fcos,
    _check_sizes,
    _check_augmentation,
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
