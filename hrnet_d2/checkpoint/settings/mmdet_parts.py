"""What several heads of MMDetection have: normalization, and box losses (for fine-tuning)."""

from collections.abc import Mapping

from .account import Node, Settings

__all__ = ["BOX_LOSSES", "norm_name", "read_box_loss"]

_NORMS = {"BN": "BN", "SyncBN": "SyncBN", "MMSyncBN": "SyncBN", "GN": "GN", "BN2d": "BN"}
BOX_LOSSES = {
    "SmoothL1Loss": "smooth_l1",
    "L1Loss": "smooth_l1",
    "GIoULoss": "giou",
    "DIoULoss": "diou",
    "CIoULoss": "ciou",
}


def read_box_loss(head: Node, key: str, settings: Settings, names: Mapping[str, str]) -> None:
    """Set ``key``.BBOX_REG_LOSS_TYPE and SMOOTH_L1_BETA from a head's ``loss_bbox``."""
    loss = head.child("loss_bbox")
    if not loss:
        return
    kind = loss("type")
    if kind not in names:
        settings.notes.append(f"{loss.place}.type {kind}: fine-tuning uses smooth L1 instead")
        return
    settings.keys[f"{key}.BBOX_REG_LOSS_TYPE"] = names[kind]
    if kind == "L1Loss":
        settings.keys[f"{key}.SMOOTH_L1_BETA"] = 0.0
    elif kind == "SmoothL1Loss":
        settings.keys[f"{key}.SMOOTH_L1_BETA"] = loss.number("beta", default=1.0)


def norm_name(node: Node, default: str = "") -> str:
    """Detectron2's name for the ``norm_cfg`` of a part of the model."""
    if "norm_cfg" not in node:
        return default
    if node("norm_cfg") is None:
        return ""
    kind = node.child("norm_cfg")("type")
    if kind not in _NORMS:
        node.refuse("norm_cfg", f"one of {', '.join(sorted(set(_NORMS)))} is expected")
        return default
    if kind == "GN" and node.child("norm_cfg").number("num_groups", default=32) != 32:
        node.refuse("norm_cfg", "GN has 32 groups here")
    return _NORMS[kind]
