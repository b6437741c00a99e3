"""What the tensors of a checkpoint say of its model, by their names (ours) and shapes."""

import re
from collections.abc import Mapping
from typing import Any

from ..recognition import describe
from .account import Settings

__all__ = ["read_tensors"]

_FAMILIES = {
    "Faster R-CNN": "faster_rcnn",
    "Mask R-CNN": "mask_rcnn",
    "Cascade R-CNN": "cascade_rcnn",
    "Cascade Mask R-CNN": "cascade_mask_rcnn",
    "Hybrid Task Cascade": "htc",
    "FCOS": "fcos",
}
_ROI = "roi_heads."
Shapes = Mapping[str, tuple[int, ...]]


def read_tensors(shapes: Shapes, settings: Settings) -> None:
    """Add to ``settings`` the family and every key that a shape decides.

    Args:
        shapes: our name to shape, of every tensor.
        settings: filled in place; keys that it has are replaced, since the tensors are the model.
            Tensors that are no whole detector are noted as unsupported.
    """
    try:
        _read(shapes, settings)
    except (IndexError, KeyError, TypeError, ZeroDivisionError):
        # Too few dimensions, an empty tensor, a part of a head without the others.
        settings.unsupported.append("the model: tensors are missing, or of shapes that none has")


def _read(shapes: Shapes, settings: Settings) -> None:
    description = describe(shapes)
    settings.whole_detector = description.family not in (None, "backbone")
    settings.family = _FAMILIES.get(description.family or "")
    if settings.family is None:
        if settings.whole_detector:
            settings.unsupported.append(f"the model: {description}")
        return
    if settings.family != "fcos" and description.classes is None:
        settings.unsupported.append(f"the model: {description} without a classifier")
        return
    keys = settings.keys
    if description.width is not None:
        keys["MODEL.BACKBONE.NAME"] = "build_hrnetv2p_backbone"
        keys["MODEL.HRNETV2P.WIDTH"] = description.width
    else:
        _read_resnet(shapes, settings)
    _read_neck(shapes, keys)
    if settings.family == "fcos":
        _read_fcos(shapes, keys)
    else:
        keys["MODEL.ROI_HEADS.NUM_CLASSES"] = description.classes
        _read_rpn(shapes, keys)
        _read_box_heads(shapes, keys)
        _read_mask_heads(shapes, keys)
    if settings.family == "htc":
        _read_semantic_head(shapes, keys)


def _read_resnet(shapes: Shapes, settings: Settings) -> None:
    first = shapes.get("backbone.bottom_up.res2.0.conv2.weight")
    if first is None:
        settings.unsupported.append("the backbone: neither HRNet nor ResNet")
        return
    depth = {6: 50, 23: 101, 36: 152}.get(_count(shapes, r"backbone\.bottom_up\.res4\.(\d+)\."))
    if depth is None or "backbone.bottom_up.res2.0.conv3.weight" not in shapes:
        settings.unsupported.append("the backbone: a ResNet that is not of depth 50, 101 or 152")
        return
    settings.keys.update(
        {
            "MODEL.BACKBONE.NAME": "build_norm_eval_resnet_fpn_backbone",
            "MODEL.RESNETS.DEPTH": depth,
            "MODEL.RESNETS.NUM_GROUPS": first[0] // first[1],
            "MODEL.RESNETS.WIDTH_PER_GROUP": first[1],
            "MODEL.RESNETS.NORM": "BN",
            "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        }
    )


def _read_neck(shapes: Shapes, keys: dict[str, Any]) -> None:
    reduction = shapes.get("backbone.reduction_conv.weight")
    if reduction is not None:
        keys["MODEL.HRNETV2P.NECK.OUT_CHANNELS"] = reduction[0]
        keys["MODEL.HRNETV2P.NECK.NUM_OUTS"] = _count(shapes, r"backbone\.fpn_output(\d+)\.weight")
    elif lateral := shapes.get("backbone.fpn_lateral2.weight"):
        keys["MODEL.FPN.OUT_CHANNELS"] = lateral[0]


def _read_fcos(shapes: Shapes, keys: dict[str, Any]) -> None:
    keys["MODEL.FCOS.NUM_CLASSES"] = shapes["head.cls_score.bias"][0]
    convolutions = [
        name
        for name, shape in shapes.items()
        if re.fullmatch(r"head\.cls_subnet\.\d+\.weight", name) and len(shape) == 4
    ]
    keys["MODEL.FCOS.NUM_CONVS"] = len(convolutions)
    if convolutions:
        normalized = _count(shapes, r"head\.cls_subnet\.(\d+)\.weight") > len(convolutions)
        keys["MODEL.FCOS.NORM"] = "GN" if normalized else ""


def _read_rpn(shapes: Shapes, keys: dict[str, Any]) -> None:
    conv = shapes.get("proposal_generator.rpn_head.conv.weight")
    if conv is not None:
        keys["MODEL.RPN.CONV_DIMS"] = [-1] if conv[0] == conv[1] else [conv[0]]


def _read_box_heads(shapes: Shapes, keys: dict[str, Any]) -> None:
    stage = r"(?:0\.)?"
    keys["MODEL.ROI_BOX_HEAD.NUM_FC"] = _count(shapes, rf"roi_heads\.box_head\.{stage}fc(\d+)\.")
    keys["MODEL.ROI_BOX_HEAD.NUM_CONV"] = _count(
        shapes, rf"roi_heads\.box_head\.{stage}conv(\d+)\."
    )
    for name, key in (("fc1", "FC_DIM"), ("conv1", "CONV_DIM")):
        shape = _first(shapes, f"box_head.{name}.weight", f"box_head.0.{name}.weight")
        if shape is not None:
            keys[f"MODEL.ROI_BOX_HEAD.{key}"] = shape[0]
    deltas = _first(shapes, "box_predictor.bbox_pred.bias", "box_predictor.0.bbox_pred.bias")
    if deltas is not None and keys["MODEL.ROI_HEADS.NUM_CLASSES"] != 1:
        keys["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = deltas[0] == 4


def _read_mask_heads(shapes: Shapes, keys: dict[str, Any]) -> None:
    predictor = _first(shapes, "mask_head.predictor.bias", "mask_head.0.predictor.bias")
    keys["MODEL.MASK_ON"] = predictor is not None
    if predictor is None:
        return
    if keys["MODEL.ROI_HEADS.NUM_CLASSES"] != 1:
        keys["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"] = predictor[0] == 1
    keys["MODEL.ROI_MASK_HEAD.NUM_CONV"] = _count(
        shapes, r"roi_heads\.mask_head\.(?:0\.)?mask_fcn(\d+)\."
    )
    deconv = _first(shapes, "mask_head.deconv.bias", "mask_head.0.deconv.bias")
    if deconv is not None:
        keys["MODEL.ROI_MASK_HEAD.CONV_DIM"] = deconv[0]


def _read_semantic_head(shapes: Shapes, keys: dict[str, Any]) -> None:
    logits = _first(shapes, "semantic_head.conv_logits.bias")
    keys["MODEL.HTC.SEMANTIC_ON"] = logits is not None
    if logits is not None:
        keys["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = logits[0]
        embedding = _first(shapes, "semantic_head.conv_embedding.bias")
        if embedding is not None:
            keys["MODEL.SEM_SEG_HEAD.CONVS_DIM"] = embedding[0]


def _first(shapes: Shapes, *names: str) -> tuple[int, ...] | None:
    """The shape of the first of these tensors of the ROI heads that is there."""
    return next((shapes[_ROI + name] for name in names if _ROI + name in shapes), None)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand in the place of the group."""
    found = (re.match(pattern, name) for name in shapes)
    return len({match[1] for match in found if match})
