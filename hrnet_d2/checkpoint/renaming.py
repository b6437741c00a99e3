"""Other projects' parameter names and ours: one table per part of a model.

A row holds their name and ours. ``{i}`` stands for a number and ``*`` at the end for the rest of
the name; on our side numbers may be computed: ``{i+2}``, ``{3i+1}``. The first matching row counts.
Our side is the layout of a whole detector; ``matching`` adjusts it for a model that is a part of
one.
"""

import re
from collections.abc import Iterable, Mapping

from .recognition import Layout

__all__ = ["UNUSED", "rename", "unused_reason"]

Table = tuple[tuple[str, str], ...]
# On our side: the tensor has no place in a detector; UNUSED says why.
_NOWHERE = "-"

# MMDetection keeps the official names, and so does our backbone.
HRNET: Table = tuple(
    (f"{part}.*", f"backbone.bottom_up.{part}.*")
    for part in ("conv{i}", "bn{i}", "layer1", "transition{i}", "stage{i}")
)
# ResNet and ResNeXt as torchvision and MMDetection name them, to Detectron2's.
RESNET: Table = (
    ("conv1.*", "backbone.bottom_up.stem.conv1.*"),
    ("bn1.*", "backbone.bottom_up.stem.conv1.norm.*"),
    ("layer{k}.{b}.conv{i}.*", "backbone.bottom_up.res{k+1}.{b}.conv{i}.*"),
    ("layer{k}.{b}.bn{i}.*", "backbone.bottom_up.res{k+1}.{b}.conv{i}.norm.*"),
    ("layer{k}.{b}.downsample.0.*", "backbone.bottom_up.res{k+1}.{b}.shortcut.*"),
    ("layer{k}.{b}.downsample.1.*", "backbone.bottom_up.res{k+1}.{b}.shortcut.norm.*"),
)
HRFPN_REDUCTION: Table = (
    ("neck.reduction_conv.conv.*", "backbone.reduction_conv.*"),
    ("neck.reduction_conv.0.*", "backbone.reduction_conv.*"),  # HRNet-Object-Detection
)
# Two-stage detectors have levels from p2 on, FCOS from p3 on.
PYRAMID_FROM_2: Table = (
    ("neck.fpn_convs.{i}.conv.*", "backbone.fpn_output{i+2}.*"),
    ("neck.fpn_conv.{i}.*", "backbone.fpn_output{i+2}.*"),  # HRNet-Object-Detection
)
PYRAMID_FROM_3: Table = (
    ("neck.fpn_convs.{i}.conv.*", "backbone.fpn_output{i+3}.*"),
    ("neck.fpn_conv.{i}.*", "backbone.fpn_output{i+3}.*"),
)
FPN_LATERAL: Table = (("neck.lateral_convs.{i}.conv.*", "backbone.fpn_lateral{i+2}.*"),)
RPN: Table = (
    ("rpn_head.rpn_conv.*", "proposal_generator.rpn_head.conv.*"),
    ("rpn_head.rpn_cls.*", "proposal_generator.rpn_head.objectness_logits.*"),
    ("rpn_head.rpn_reg.*", "proposal_generator.rpn_head.anchor_deltas.*"),
)
BOX_HEAD: Table = (
    ("roi_head.bbox_head.shared_convs.{i}.conv.*", "roi_heads.box_head.conv{i+1}.*"),
    ("roi_head.bbox_head.shared_convs.{i}.gn.*", "roi_heads.box_head.conv{i+1}.norm.*"),
    ("roi_head.bbox_head.shared_convs.{i}.bn.*", "roi_heads.box_head.conv{i+1}.norm.*"),
    ("roi_head.bbox_head.shared_fcs.{i}.*", "roi_heads.box_head.fc{i+1}.*"),
    ("roi_head.bbox_head.fc_cls.*", "roi_heads.box_predictor.cls_score.*"),
    ("roi_head.bbox_head.fc_reg.*", "roi_heads.box_predictor.bbox_pred.*"),
)
CASCADE_BOX_HEADS: Table = (
    ("roi_head.bbox_head.{s}.shared_fcs.{i}.*", "roi_heads.box_head.{s}.fc{i+1}.*"),
    ("roi_head.bbox_head.{s}.fc_cls.*", "roi_heads.box_predictor.{s}.cls_score.*"),
    ("roi_head.bbox_head.{s}.fc_reg.*", "roi_heads.box_predictor.{s}.bbox_pred.*"),
)
MASK_HEAD: Table = (
    ("roi_head.mask_head.convs.{i}.conv.*", "roi_heads.mask_head.mask_fcn{i+1}.*"),
    ("roi_head.mask_head.upsample.*", "roi_heads.mask_head.deconv.*"),
    ("roi_head.mask_head.conv_logits.*", "roi_heads.mask_head.predictor.*"),
)
CASCADE_MASK_HEADS: Table = (
    ("roi_head.mask_head.{s}.convs.{i}.conv.*", "roi_heads.mask_head.{s}.mask_fcn{i+1}.*"),
    ("roi_head.mask_head.{s}.upsample.*", "roi_heads.mask_head.{s}.deconv.*"),
    ("roi_head.mask_head.{s}.conv_logits.*", "roi_heads.mask_head.{s}.predictor.*"),
    # HTC: features of the previous stage's mask head, which the first stage does not have
    ("roi_head.mask_head.0.conv_res.*", _NOWHERE),
    ("roi_head.mask_head.{s}.conv_res.conv.*", "roi_heads.mask_head.{s}.conv_res.*"),
)
SEMANTIC_HEAD: Table = (
    (
        "roi_head.semantic_head.lateral_convs.{i}.conv.*",
        "roi_heads.semantic_head.lateral_convs.{i}.*",
    ),
    ("roi_head.semantic_head.convs.{i}.conv.*", "roi_heads.semantic_head.convs.{i}.*"),
    ("roi_head.semantic_head.conv_embedding.conv.*", "roi_heads.semantic_head.conv_embedding.*"),
    ("roi_head.semantic_head.conv_logits.*", "roi_heads.semantic_head.conv_logits.*"),
)
FCOS: Table = (
    ("bbox_head.cls_convs.{i}.conv.*", "head.cls_subnet.{3i}.*"),
    ("bbox_head.cls_convs.{i}.gn.*", "head.cls_subnet.{3i+1}.*"),
    ("bbox_head.reg_convs.{i}.conv.*", "head.bbox_subnet.{3i}.*"),
    ("bbox_head.reg_convs.{i}.gn.*", "head.bbox_subnet.{3i+1}.*"),
    ("bbox_head.conv_cls.*", "head.cls_score.*"),
    ("bbox_head.conv_reg.*", "head.bbox_pred.*"),
    ("bbox_head.conv_centerness.*", "head.ctrness.*"),
    (
        "bbox_head.fcos_cls.*",
        "head.cls_score.*",
    ),  # these three names were used until MMDetection 2.1
    ("bbox_head.fcos_reg.*", "head.bbox_pred.*"),
    ("bbox_head.fcos_centerness.*", "head.ctrness.*"),
    ("bbox_head.scales.{i}.scale", "head.scales.{i}.scale"),
)

# Towers without normalization have two layers for each convolution, not three.
FCOS_PLAIN: Table = (
    ("bbox_head.cls_convs.{i}.conv.*", "head.cls_subnet.{2i}.*"),
    ("bbox_head.reg_convs.{i}.conv.*", "head.bbox_subnet.{2i}.*"),
    *FCOS[4:],
)

ROI_HEADS = (
    *BOX_HEAD,
    *CASCADE_BOX_HEADS,
    *MASK_HEAD,
    *CASCADE_MASK_HEADS,
    *SEMANTIC_HEAD,
)

# Tensors that a detector has no use for, and why.
UNUSED: Table = (
    ("incre_modules.*", "ImageNet classifier"),
    ("downsamp_modules.*", "ImageNet classifier"),
    ("final_layer.*", "ImageNet classifier"),
    ("classifier.*", "ImageNet classifier"),
    ("fc.*", "ImageNet classifier"),
    ("head.fc.*", "ImageNet classifier"),  # this and the next three are MMPretrain's names
    ("neck.increase_layers.*", "ImageNet classifier"),
    ("neck.downsample_layers.*", "ImageNet classifier"),
    ("neck.final_layer.*", "ImageNet classifier"),
    (
        "roi_head.mask_head.0.conv_res.*",
        "MMDetection before 2020-02-15 created it in the first mask head of HTC and never ran it",
    ),
    ("data_preprocessor.*", "pixel mean and standard deviation, which the config sets"),
)

# Prefixes of the names of a Detectron2 model: a detector, or a backbone alone.
OURS = (
    *("backbone.", "proposal_generator.", "roi_heads.", "sem_seg_head.", "head.", "pixel_"),
    *("anchor_generator.", "bottom_up.", "reduction_conv.", "fpn_output", "fpn_lateral"),
    *("stem.", "res2.", "res3.", "res4.", "res5."),
)

_BACKBONES = {Layout.HRNET: HRNET, Layout.RESNET: RESNET}
_SLOT = re.compile(r"\{(\w)\}|(\*)$")
_COMPUTED = re.compile(r"\{(\d*)(\w)(?:\+(\d+))?\}")


def rename(names: Iterable[str], layout: Layout, backbone: Layout | None) -> dict[str, str | None]:
    """Translate a checkpoint's names into ours.

    Args:
        names: the checkpoint's names.
        layout: whose names they are.
        backbone: the detector's backbone (HRNET or RESNET); None if it is neither.

    Returns:
        Their names mapped to ours; None for a name that is in no table.
    """
    names = list(names)
    if layout is Layout.DETECTRON2:
        return {name: name if name.startswith(OURS) else None for name in names}
    rows = _BACKBONES[layout] if layout in _BACKBONES else _detector(names, backbone)
    rules = [(_pattern(theirs), ours) for theirs, ours in rows]
    return {name: _apply(rules, name) for name in names}


def unused_reason(name: str) -> str | None:
    """Why a detector has no use for a tensor of this name; None if it may have."""
    return next((why for theirs, why in UNUSED if _pattern(theirs).fullmatch(name)), None)


def _detector(names: list[str], backbone: Layout | None) -> Table:
    rows = tuple(
        (f"backbone.{theirs}", ours) for theirs, ours in (_BACKBONES[backbone] if backbone else ())
    )
    if any(name.startswith("rpn_head.") for name in names):
        return (*rows, *HRFPN_REDUCTION, *PYRAMID_FROM_2, *FPN_LATERAL, *RPN, *ROI_HEADS)
    normalized = any(".gn." in name for name in names if name.startswith("bbox_head."))
    head = FCOS if normalized else FCOS_PLAIN
    return (*rows, *HRFPN_REDUCTION, *PYRAMID_FROM_3, *head)


def _pattern(theirs: str) -> re.Pattern:
    regex, end = "", 0
    for slot in _SLOT.finditer(theirs):
        regex += re.escape(theirs[end : slot.start()])
        regex += "(?P<rest>.+)" if slot[2] else rf"(?P<{slot[1]}>\d+)"
        end = slot.end()
    return re.compile(regex + re.escape(theirs[end:]))


def _apply(rules: list[tuple[re.Pattern, str]], name: str) -> str | None:
    for pattern, ours in rules:
        if match := pattern.fullmatch(name):
            return None if ours == _NOWHERE else _fill(ours, match.groupdict())
    return None


def _fill(ours: str, values: Mapping[str, str]) -> str:
    def number(slot: re.Match) -> str:
        factor, variable, offset = slot.groups()
        return str(int(factor or 1) * int(values[variable]) + int(offset or 0))

    filled = _COMPUTED.sub(number, ours)
    return filled.removesuffix("*") + values["rest"] if ours.endswith("*") else filled
