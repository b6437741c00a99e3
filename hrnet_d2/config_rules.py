"""What each key of a config may be: this package's keys and those of Detectron2 that it reads."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from .arguments.choices import TRACKERS
from .config_parts import is_two_stage

__all__ = ["LEVELS", "RULES", "Rule", "is_fcos", "is_whole"]


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


def is_whole(value: Any, low: float = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_positive(value: Any) -> bool:
    return not isinstance(value, bool) and math.isfinite(value) and value > 0


def _when(rule: Rule, needed: Callable[[CfgNode], bool]) -> Rule:
    return Rule(rule.allowed, rule.holds, needed)


def _is_hrnet(cfg: CfgNode) -> bool:
    return "hrnetv2" in str(cfg.MODEL.BACKBONE.NAME)


def is_fcos(cfg: CfgNode) -> bool:
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
        Rule("a whole number from 0 to 5", lambda v: is_whole(v, 0) and v <= 5), _is_hrnet
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
        Rule("a number from 0 to below 1", lambda v: 0 <= v < 1), is_two_stage
    ),
    "MODEL.RPN.IN_FEATURES": _when(_LEVEL_NAMES, is_two_stage),
    "MODEL.RPN.CONV_DIMS": _when(
        _all("whole numbers of at least 1, or -1 (the input's)", lambda v: v == -1 or is_whole(v)),
        is_two_stage,
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
    "MODEL.ROI_HEADS.IN_FEATURES": _when(_LEVEL_NAMES, is_two_stage),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": _all("numbers", math.isfinite),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": _number(0),
    "MODEL.ROI_HEADS.NUM_CLASSES": _when(_whole(1), is_two_stage),
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
    "MODEL.FCOS.IN_FEATURES": _when(_LEVEL_NAMES, is_fcos),
    "MODEL.FCOS.NUM_CLASSES": _when(_whole(1), is_fcos),
    "MODEL.FCOS.NUM_CONVS": _when(_whole(0), is_fcos),
    "MODEL.FCOS.NORM": _when(_one_of(*NORMS), is_fcos),
    "MODEL.FCOS.SIZES_OF_INTEREST": _when(
        Rule(
            "increasing numbers above 0",
            lambda v: all(map(_is_positive, v)) and list(v) == sorted(set(v)),
        ),
        is_fcos,
    ),
    "MODEL.FCOS.PRIOR_PROB": _when(Rule("a number between 0 and 1", lambda v: 0 < v < 1), is_fcos),
    "MODEL.FCOS.FOCAL_LOSS_GAMMA": _when(_number(0), is_fcos),
    "MODEL.FCOS.FOCAL_LOSS_ALPHA": _when(_number(-1, 1), is_fcos),
    "MODEL.FCOS.BOX_LOSS": _when(_one_of("iou", "giou", "diou"), is_fcos),
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": _when(_number(0), is_fcos),
    "MODEL.FCOS.SCORE_THRESH_TEST": _when(FRACTION, is_fcos),
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": _when(_whole(1), is_fcos),
    "MODEL.FCOS.NMS_THRESH_TEST": _when(FRACTION, is_fcos),
    "MODEL.OPTIMIZE.BACKEND": _one_of("torch", "openvino", "inductor", "auto"),
    "MODEL.OPTIMIZE.CHANNELS_LAST": _one_of("on", "off", "auto"),
    "MODEL.OPTIMIZE.DTYPE": _one_of("float32", "bfloat16", "float16", "auto"),
    "MODEL.OPTIMIZE.SIZE_BUCKET": Rule(
        "a multiple of 32, or 0", lambda v: is_whole(v, 0) and v % 32 == 0
    ),
    "VIS_FIRST_BATCH": _one_of("on", "off", "auto"),
    "INPUT.BACKEND": _one_of("opencv", "detectron2"),
    "INPUT.FORMAT": _one_of("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": _one_of("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": _one_of("none", "horizontal", "vertical"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MIN_SIZE_TRAIN": _all(
        "whole numbers of at least 0 (0: as they are)", lambda v: is_whole(v, 0)
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
        lambda v: len(v) == 2 and all(map(is_whole, v)),
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
        lambda v: is_whole(v, -1),
    ),
    "TEST.PATIENCE": _whole(0),
    "TEST.PICTURES": _whole(0),
    "TRACKER.NAMES": _all("'wandb' or 'mlflow'", lambda v: v in TRACKERS, empty=True),
    "TEST.DETECTIONS_PER_IMAGE": _whole(1),
    "TEST.AUG.MIN_SIZES": _when(
        _all("whole numbers of at least 0 (0: as they are)", lambda v: is_whole(v, 0)),
        _is_augmented,
    ),
    "TEST.AUG.MAX_SIZE": _when(_whole(1), _is_augmented),
    "DATALOADER.NUM_WORKERS": Rule(
        "a whole number from 0 to 1024 (processes that load data)",
        lambda v: is_whole(v, 0) and v <= 1024,
    ),
    "SEED": Rule(
        "a whole number below 2**32 (negative: a random seed)",
        lambda v: is_whole(v, -math.inf) and v < 2**32,
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
    "SOLVER.STEPS": _all("whole numbers of at least 1", is_whole, empty=True),
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
    "SOLVER.FUSED": Rule("True or False (None)", lambda v: isinstance(v, bool)),
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
