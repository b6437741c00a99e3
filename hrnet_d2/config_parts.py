"""Rules for Detectron2's parts of a config: names in registries, anchors, heads and crops.

Detectron2 looks at these when it builds the model, and raises errors that do not name the key, or
trains with them to no result.
"""

import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY

__all__ = ["head_levels", "is_two_stage", "part_problems"]

_POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
_CROPS = ("relative", "relative_range", "absolute", "absolute_range")


def is_two_stage(cfg: CfgNode) -> bool:
    """Whether the model is a proposal network and ROI heads."""
    return cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "HybridTaskCascade")


def head_levels(cfg: CfgNode) -> dict[str, list[str]]:
    """The levels that the heads of a Detectron2 or an own meta-architecture read, by config key."""
    model = cfg.MODEL
    kind = model.META_ARCHITECTURE
    sections = []
    if is_two_stage(cfg) or kind in ("PanopticFPN", "ProposalNetwork"):
        sections.append("RPN")
    if is_two_stage(cfg) or kind == "PanopticFPN":
        sections.append("ROI_HEADS")
    if kind in ("PanopticFPN", "SemanticSegmentor"):
        sections.append("SEM_SEG_HEAD")
    if kind in ("RetinaNet", "FCOS"):
        sections.append(kind.upper())
    return {
        f"MODEL.{name}.IN_FEATURES": list(model[name].IN_FEATURES)
        for name in sections
        if name in model
    }


def part_problems(cfg: CfgNode, train: bool) -> Iterator[str]:
    """What cannot work: the key, its value, what is allowed.

    Args:
        cfg: a full config.
        train: also what only training reads.
    """
    yield from _name_problems(cfg)
    if is_two_stage(cfg):
        yield from _anchor_problems(cfg)
        yield from _head_problems(cfg)
        yield from _cascade_problems(cfg)
        if train:
            yield from _matching_problems(cfg)
    if train:
        yield from _training_problems(cfg)
    for i, item in enumerate(cfg.TEST.EXPECTED_RESULTS):
        if not isinstance(item, list | tuple) or len(item) != 4:
            yield (
                f"TEST.EXPECTED_RESULTS has {item!r} in place {i}, each must be [task, metric, "
                "value, tolerance], as ['bbox', 'AP', 38.5, 0.2]"
            )


def _name_problems(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    names = [
        ("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
    ]
    if is_two_stage(cfg):
        proposals = model.PROPOSAL_GENERATOR.NAME
        if proposals != "PrecomputedProposals":
            names.append(("MODEL.PROPOSAL_GENERATOR.NAME", proposals, PROPOSAL_GENERATOR_REGISTRY))
        names += [
            ("MODEL.RPN.HEAD_NAME", model.RPN.HEAD_NAME, RPN_HEAD_REGISTRY),
            ("MODEL.ANCHOR_GENERATOR.NAME", model.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY),
            ("MODEL.ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
        ]
        if not model.ROI_HEADS.NAME.startswith("Res5"):  # which has a box head of its own
            head = model.ROI_BOX_HEAD.NAME
            names.append(("MODEL.ROI_BOX_HEAD.NAME", head, ROI_BOX_HEAD_REGISTRY))
        if model.MASK_ON:
            mask = model.ROI_MASK_HEAD.NAME
            names.append(("MODEL.ROI_MASK_HEAD.NAME", mask, ROI_MASK_HEAD_REGISTRY))
    for key, name, registry in names:
        if name not in registry:
            known = sorted(known for known, _ in registry)
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else f": {', '.join(known)}"
            yield f"{key} is {name!r}, it must be a name that is registered{meant}"


def _anchor_problems(cfg: CfgNode) -> Iterator[str]:
    node, levels = cfg.MODEL.ANCHOR_GENERATOR, cfg.MODEL.RPN.IN_FEATURES
    if node.NAME != "DefaultAnchorGenerator":
        return
    for key, value in (("SIZES", node.SIZES), ("ASPECT_RATIOS", node.ASPECT_RATIOS)):
        name = f"MODEL.ANCHOR_GENERATOR.{key}"
        # Detectron2 takes one list for all levels, flat or nested, or a list for each.
        rows = value if value and isinstance(value[0], list | tuple) else [value]
        if not all(isinstance(row, list | tuple) and row for row in rows) or not all(
            _is_positive(number) for row in rows for number in row
        ):
            yield f"{name} is {value!r}, it must be lists of numbers above 0"
        elif len(rows) not in (1, len(levels)):
            yield (
                f"{name} has {len(rows)} lists, it must have one for all levels or one for each of "
                f"the {len(levels)} levels of MODEL.RPN.IN_FEATURES ({', '.join(levels)})"
            )


def _head_problems(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    if not model.ROI_HEADS.IN_FEATURES:
        yield "MODEL.ROI_HEADS.IN_FEATURES is empty, it must name the levels to pool from"
    heads = [("MODEL.ROI_BOX_HEAD", model.ROI_BOX_HEAD)]
    if model.MASK_ON:
        heads.append(("MODEL.ROI_MASK_HEAD", model.ROI_MASK_HEAD))
    for name, node in heads:
        if node.POOLER_TYPE not in _POOLERS and (node.POOLER_TYPE or name.endswith("BOX_HEAD")):
            yield f"{name}.POOLER_TYPE is {node.POOLER_TYPE!r}, it must be {_any_of(_POOLERS)}"
        for key in ("POOLER_RESOLUTION", "CONV_DIM", "FC_DIM"):
            if key in node and not (isinstance(node[key], int) and node[key] >= 1):
                yield f"{name}.{key} is {node[key]!r}, it must be a whole number of at least 1"
        for key in ("POOLER_SAMPLING_RATIO", "NUM_CONV", "NUM_FC"):
            if key in node and not (isinstance(node[key], int) and node[key] >= 0):
                yield f"{name}.{key} is {node[key]!r}, it must be a whole number of at least 0"
    for name, node in (("MODEL.RPN", model.RPN), ("MODEL.ROI_BOX_HEAD", model.ROI_BOX_HEAD)):
        if node.BBOX_REG_LOSS_TYPE not in _BOX_LOSSES:
            yield (
                f"{name}.BBOX_REG_LOSS_TYPE is {node.BBOX_REG_LOSS_TYPE!r}, it must be "
                f"{_any_of(_BOX_LOSSES)}"
            )
        if not (math.isfinite(node.SMOOTH_L1_BETA) and node.SMOOTH_L1_BETA >= 0):
            yield (
                f"{name}.SMOOTH_L1_BETA is {node.SMOOTH_L1_BETA!r}, it must be a number of at "
                "least 0"
            )
        yield from _weight_problems(f"{name}.BBOX_REG_WEIGHTS", node.BBOX_REG_WEIGHTS)


def _cascade_problems(cfg: CfgNode) -> Iterator[str]:
    node, name = cfg.MODEL.ROI_BOX_CASCADE_HEAD, "MODEL.ROI_BOX_CASCADE_HEAD"
    if "Cascade" not in cfg.MODEL.ROI_HEADS.NAME:
        return
    if len(node.IOUS) != len(node.BBOX_REG_WEIGHTS):
        yield (
            f"{name}.IOUS has {len(node.IOUS)} values and BBOX_REG_WEIGHTS "
            f"{len(node.BBOX_REG_WEIGHTS)}: each stage takes one of both"
        )
    for weights in node.BBOX_REG_WEIGHTS:
        yield from _weight_problems(f"{name}.BBOX_REG_WEIGHTS", weights)


def _weight_problems(key: str, weights: Any) -> Iterator[str]:
    sound = isinstance(weights, list | tuple) and all(map(_is_positive, weights))
    if not sound or len(weights) != 4:
        yield f"{key} is {weights!r}, it must be numbers above 0 for x, y, width and height"


def _matching_problems(cfg: CfgNode) -> Iterator[str]:
    rpn = cfg.MODEL.RPN
    if (
        cfg.MODEL.PROPOSAL_GENERATOR.NAME == "MaxIoURPN"
        and rpn.MIN_POS_IOU < 0
        and rpn.MATCH_VALID_ANCHORS
    ):
        yield (
            f"MODEL.RPN.MIN_POS_IOU is {rpn.MIN_POS_IOU} (Detectron2's matching), which matches "
            "all anchors: set MODEL.RPN.MATCH_VALID_ANCHORS False, or a MIN_POS_IOU of at least 0"
        )
    for name, node in (("MODEL.RPN", cfg.MODEL.RPN), ("MODEL.ROI_HEADS", cfg.MODEL.ROI_HEADS)):
        bounds, labels = list(node.IOU_THRESHOLDS), list(node.IOU_LABELS)
        if bounds != sorted(bounds) or not all(0 < bound <= 1 for bound in bounds):
            yield (
                f"{name}.IOU_THRESHOLDS is {bounds}, it must be increasing numbers above 0 up to 1"
            )
        if len(labels) != len(bounds) + 1 or not all(label in (-1, 0, 1) for label in labels):
            yield (
                f"{name}.IOU_LABELS is {labels}, it must be one of 0, 1 and -1 (ignore) for each "
                f"of the {len(bounds) + 1} ranges of IOU_THRESHOLDS {bounds}"
            )


def _training_problems(cfg: CfgNode) -> Iterator[str]:
    crop = cfg.INPUT.CROP
    if crop.ENABLED:
        if crop.TYPE not in _CROPS:
            yield f"INPUT.CROP.TYPE is {crop.TYPE!r}, it must be {_any_of(_CROPS)}"
        whole = crop.TYPE.startswith("absolute")
        if len(crop.SIZE) != 2 or not all(
            _is_positive(side) and (whole or side <= 1) for side in crop.SIZE
        ):
            allowed = "pixels" if whole else "fractions of the image, above 0 up to 1"
            yield f"INPUT.CROP.SIZE is {crop.SIZE!r}, it must be height and width in {allowed}"
    solver = cfg.SOLVER
    if solver.ACCUMULATE_STEPS > solver.IMS_PER_BATCH:
        yield (
            f"SOLVER.ACCUMULATE_STEPS is {solver.ACCUMULATE_STEPS}, SOLVER.IMS_PER_BATCH has only "
            f"{solver.IMS_PER_BATCH} images to divide into so many parts"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and not (
        0 <= solver.BASE_LR_END <= solver.BASE_LR
    ):
        yield (
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END!r}, it must be a number from 0 to "
            f"SOLVER.BASE_LR ({solver.BASE_LR!r})"
        )


def _is_positive(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )


def _any_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(map(repr, names))
