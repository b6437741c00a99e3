"""The final non-maximum suppression of a detector, and how many detections it leaves."""

from .account import Node, Settings
from .mmdet_rpn import nms_threshold

__all__ = ["read_final_nms"]


def read_final_nms(test: Node, key: str, settings: Settings) -> None:
    """Set the IoU threshold at ``key``, TEST.DETECTIONS_PER_IMAGE and soft-NMS."""
    threshold = nms_threshold(test)
    if threshold is not None:
        settings.keys[key] = threshold
    if (most := test.number("max_per_img")) is not None:
        settings.keys["TEST.DETECTIONS_PER_IMAGE"] = int(most) if most >= 0 else 10**6
    nms = test.child("nms")
    nms.refuse_unless("class_agnostic", (False,), "classes are separate here")
    kind = nms("type", default="nms")
    if kind == "soft_nms" and key.startswith("MODEL.ROI_HEADS."):
        nms.refuse_unless("method", ("linear",), "linear is expected")
        settings.keys["MODEL.ROI_HEADS.SOFT_NMS.ENABLED"] = True
        least = float(nms.number("min_score", default=1e-3))
        settings.keys["MODEL.ROI_HEADS.SOFT_NMS.MIN_SCORE"] = least
    elif kind != "nms":
        nms.refuse("type", "nms, or soft_nms of a two-stage detector, is expected")
