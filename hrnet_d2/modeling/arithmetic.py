"""Which arithmetic a network computes in: that of MMDetection 2.x, or of 1.x.

Checkpoints of MMDetection 1.x give their published numbers only if anchors, RoIAlign, clipping,
NMS and mask pasting are computed as 1.x did.  ``MODEL.ARITHMETIC "mmdet1"`` replaces the parts that
differ by those of :mod:`hrnet_d2.modeling.mmdet1`, through Detectron2's registries.
"""

import logging

from detectron2.config import CfgNode

__all__ = ["check_arithmetic", "select_components", "training_config"]

logger = logging.getLogger(__name__)

ARITHMETICS = ("mmdet2", "mmdet1")
# Key of a component's name -> its name in 2.x arithmetic -> its counterpart in 1.x arithmetic.
_META_ARCHITECTURES = {
    "GeneralizedRCNN": "MMDet1RCNN",
    "HybridTaskCascade": "MMDet1HybridTaskCascade",
    "FCOS": "MMDet1FCOS",
}
_PROPOSAL_GENERATORS = {"RPN": "MMDet1RPN", "MaxIoURPN": "MMDet1RPN"}
_ANCHOR_GENERATORS = {
    "DefaultAnchorGenerator": "MMDet1AnchorGenerator",
    "RatioMajorAnchorGenerator": "MMDet1RatioMajorAnchorGenerator",
}
_ROI_HEADS = {
    "StandardROIHeads": "MMDet1ROIHeads",
    "MaxIoUROIHeads": "MMDet1ROIHeads",
    "MaxIoUCascadeROIHeads": "MMDet1CascadeROIHeads",
    "HTCROIHeads": "MMDet1HTCROIHeads",
}


def select_components(cfg: CfgNode) -> CfgNode:
    """The config with the names of the components that compute in ``cfg.MODEL.ARITHMETIC``.

    Args:
        cfg: a full config; it stays as it is.

    Returns:
        ``cfg`` itself for "mmdet2", else a changed copy.

    Raises:
        ValueError: if the arithmetic is unknown, or a component has no form in it.
    """
    arithmetic = cfg.MODEL.get("ARITHMETIC", "mmdet2")
    if arithmetic not in ARITHMETICS:
        raise ValueError(f"MODEL.ARITHMETIC must be one of {ARITHMETICS}, got {arithmetic!r}")
    if arithmetic == "mmdet2":
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    _replace(cfg.MODEL, "META_ARCHITECTURE", _META_ARCHITECTURES)
    if cfg.MODEL.META_ARCHITECTURE != "MMDet1FCOS":
        _replace(cfg.MODEL.PROPOSAL_GENERATOR, "NAME", _PROPOSAL_GENERATORS)
        _replace(cfg.MODEL.ANCHOR_GENERATOR, "NAME", _ANCHOR_GENERATORS)
        _replace(cfg.MODEL.ROI_HEADS, "NAME", _ROI_HEADS)
    cfg.freeze()
    return cfg


def _replace(node: CfgNode, key: str, counterparts: dict[str, str]) -> None:
    name = node[key]
    if name in counterparts.values():
        return
    if name not in counterparts:
        raise ValueError(
            f"MODEL.ARITHMETIC 'mmdet1' is not available for {name!r}, only for "
            f"{', '.join(counterparts)}"
        )
    node[key] = counterparts[name]


def check_arithmetic(cfg: CfgNode, arithmetic: str) -> None:
    """
    Raises:
        ValueError: if ``cfg`` asks for an arithmetic other than the component's.
    """
    wanted = cfg.MODEL.get("ARITHMETIC", "mmdet2")
    if wanted != arithmetic:
        raise ValueError(
            f"MODEL.ARITHMETIC is {wanted!r}, but this component computes in {arithmetic!r}: build "
            "the model by hrnet_d2.modeling.build_model, not by Detectron2's"
        )


def training_config(cfg: CfgNode) -> CfgNode:
    """The config to train with: weights of 1.x are fine-tuned in the arithmetic of 2.x.

    Args:
        cfg: a full config; it stays as it is.

    Returns:
        ``cfg`` itself, or for "mmdet1" a copy with "mmdet2", after one logged line.
    """
    if cfg.MODEL.ARITHMETIC == "mmdet2":
        return cfg
    logger.warning(
        "MODEL.ARITHMETIC %s is for inference only: fine-tuning starts from the 1.x weights in 2.x "
        "arithmetic",
        cfg.MODEL.ARITHMETIC,
    )
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ARITHMETIC = "mmdet2"
    if frozen:
        cfg.freeze()
    return cfg
