"""Recognize whose names a checkpoint uses and what kind of model its tensors belong to."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Description", "Layout", "describe", "recognize", "recognize_backbone"]


class Layout(enum.Enum):
    """The project whose parameter names these are."""

    DETECTRON2 = "Detectron2 (this package)"
    MMDET = "MMDetection 2.x or 3.x"
    MMDET_V1 = "MMDetection 1.x"
    HRNET = "HRNet backbone, official names"
    RESNET = "ResNet backbone, torchvision's names"


# Names that only occur in these layouts.
_HRNET_MARK = "transition1.0.0.weight"
_RESNET_MARK = "layer4.0.conv1.weight"
_MMDET_HEADS = ("rpn_head.", "roi_head.", "bbox_head.")


def recognize(names: Iterable[str], version: str | None = None) -> Layout:
    """Recognize the layout of a checkpoint's names.

    MMDetection 1.x differs from 2.x in that its two-stage models have no "roi_head." prefix, in the
    neck's names (HRNet-Object-Detection), and in the version stated in the file.

    Args:
        names: names of the tensors, without prefixes.
        version: the MMDetection version stated in the file.
    """
    names = set(names)
    starts = {name.split(".", 1)[0] + "." for name in names}
    if starts & set(_MMDET_HEADS) and "backbone." in starts:
        two_stage_v1 = "rpn_head." in starts and "roi_head." not in starts
        fork = any(n.startswith(("neck.fpn_conv.", "neck.reduction_conv.0.")) for n in names)
        stated = version is not None and version.split(".")[0] in ("0", "1")
        old = two_stage_v1 or fork or (stated and "roi_head." not in starts)
        return Layout.MMDET_V1 if old else Layout.MMDET
    if recognize_backbone(names, "backbone.") is not None:
        # MMPretrain's classifiers, or the backbone extracted from an MMDetection detector
        rest = {name for name in names if not name.startswith(("backbone.", "neck.", "head.fc."))}
        return Layout.DETECTRON2 if rest else Layout.MMDET
    return recognize_backbone(names) or Layout.DETECTRON2


def recognize_backbone(names: Iterable[str], prefix: str = "") -> Layout | None:
    """Return HRNET or RESNET if the backbone's official names follow ``prefix``, else None."""
    names = set(names)
    if prefix + _HRNET_MARK in names:
        return Layout.HRNET
    return Layout.RESNET if prefix + _RESNET_MARK in names else None


@dataclass(frozen=True)
class Description:
    """What a model's tensors, under this package's names, say about it.

    Attributes:
        family: "Faster R-CNN", ..., or "backbone" for a backbone alone; None if unknown.
        backbone: "HRNet-W18", "ResNet-50", ...; None if unknown.
        width: HRNet's width; None for other backbones.
        classes: the number of classes; None if no head shows it.
    """

    family: str | None
    backbone: str | None
    width: int | None
    classes: int | None

    def __str__(self) -> str:
        parts = [self.family or "an unknown model", self.backbone]
        parts.append(f"{self.classes} classes" if self.classes is not None else None)
        return ", ".join(part for part in parts if part)


def describe(shapes: Mapping[str, tuple[int, ...]]) -> Description:
    """Derive family, backbone and number of classes from names (this package's) and shapes."""
    width = backbone = classes = None
    for name, shape in shapes.items():
        if name.endswith(_HRNET_MARK):
            width, backbone = shape[0], f"HRNet-W{shape[0]}"
        elif name.endswith("res2.0.conv2.weight"):
            backbone = _resnet(shapes, groups=shape[0] // shape[1], per_group=shape[1])
        elif name.startswith("roi_heads.") and name.endswith("cls_score.bias"):
            classes = shape[0] - 1
        elif name == "head.cls_score.bias":
            classes = shape[0]
    return Description(_family(shapes), backbone, width, classes)


def _resnet(names: Iterable[str], groups: int, per_group: int) -> str:
    blocks = sum(name.endswith(".conv1.weight") and "res4." in name for name in names)
    depth = {2: "-18 or -34", 6: "-50", 23: "-101", 36: "-152"}.get(blocks, "")
    return f"ResNet{depth}" if groups == 1 else f"ResNeXt{depth}-{groups}x{per_group}d"


def _family(names: Iterable[str]) -> str | None:
    names = set(names)

    def has(part: str) -> bool:
        return any(name.startswith(part) for name in names)

    if has("roi_heads."):
        if any(".conv_res." in name for name in names) or has("roi_heads.semantic_head."):
            return "Hybrid Task Cascade"
        mask = "Mask " if has("roi_heads.mask_head.") else ""
        if has("roi_heads.box_predictor.0."):
            return f"Cascade {mask}R-CNN"
        return f"{mask or 'Faster '}R-CNN"
    if has("head.ctrness."):
        return "FCOS"
    if has("head.bbox_subnet."):
        return "RetinaNet"
    if names and all(name.startswith("backbone.bottom_up.") for name in names):
        return "backbone"
    return None
