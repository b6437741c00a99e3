"""MMDetection's ``model``, ``train_cfg`` and ``test_cfg`` in Detectron2's keys.

1.x has the heads beside the backbone, 2.x and 3.x in ``roi_head``; ``modernized`` gives the first
the shape of the second, so that one reading is enough.
"""

from typing import Any

from .account import Node, Settings
from .mmdet_fcos import read_fcos
from .mmdet_parts import norm_name
from .mmdet_roi_heads import read_roi_heads
from .mmdet_rpn import read_rpn

__all__ = ["modernized", "read_model"]

_DETECTORS = (
    *("FasterRCNN", "MaskRCNN", "CascadeRCNN", "HybridTaskCascade", "FCOS", "TwoStageDetector"),
)
_OTHER_CONVOLUTIONS = ("dcn", "gcb", "gen_attention", "plugins", "sac", "dcn_on_last_conv")
_ROI_HEAD_PARTS = (
    *("bbox_head", "mask_head", "bbox_roi_extractor", "mask_roi_extractor", "semantic_head"),
    *("semantic_roi_extractor", "interleaved", "mask_info_flow", "semantic_fusion", "shared_head"),
    "num_stages",
)
# HRNet's stages: modules, branches, blocks of a branch; the same for every width.
_STAGES = {"stage1": (1, 1), "stage2": (1, 2), "stage3": (4, 3), "stage4": (3, 4)}


def modernized(values: dict[str, Any]) -> dict[str, Any]:
    """``model`` as 2.8 and later write it: heads in ``roi_head``, both cfgs inside."""
    model = values.get("model")
    model = dict(model) if isinstance(model, dict) else {}
    for name in ("train_cfg", "test_cfg"):
        outer = values.get(name)
        # 3.x has the training loop under the same name.
        if not isinstance(model.get(name), dict) and isinstance(outer, dict):
            model[name] = {} if "type" in outer else outer
    if "roi_head" not in model and "rpn_head" in model and "bbox_head" in model:
        model["roi_head"] = {part: model[part] for part in _ROI_HEAD_PARTS if part in model}
        training = model.get("train_cfg")
        if isinstance(training, dict) and "stage_loss_weights" in training:
            model["roi_head"]["stage_loss_weights"] = training["stage_loss_weights"]
    return model


def read_model(values: dict[str, Any], settings: Settings) -> None:
    """Add what a config says of the model to ``settings.keys``; of the shapes the tensors tell."""
    model = Node(modernized(values), "model", settings)
    if not model:
        return
    model.refuse_unless("type", (*_DETECTORS, None), "this package has no such detector")
    for node in model.walk():
        for name in _OTHER_CONVOLUTIONS:
            if node(name):
                node.refuse(name, "this package has none")
        if isinstance(node("conv_cfg"), dict) and node.child("conv_cfg")("type") not in (
            *("Conv", "Conv2d"),
            None,
        ):
            node.refuse("conv_cfg", "only plain convolutions are supported")
    _read_backbone(model.child("backbone"), settings)
    _read_neck(model, settings)
    if settings.family == "fcos":
        read_fcos(model, settings)
        return
    read_rpn(model, settings)
    read_roi_heads(model, settings)


def _read_backbone(backbone: Node, settings: Settings) -> None:
    if not backbone:
        return
    kind = backbone("type")
    if kind == "HRNet":
        _read_hrnet(backbone, settings)
    elif kind in ("ResNet", "ResNeXt"):
        _read_resnet(backbone, settings)
    else:
        backbone.refuse("type", "this package has HRNet, ResNet and ResNeXt")


def _read_hrnet(backbone: Node, settings: Settings) -> None:
    extra = backbone.child("extra")
    for name, (modules, branches) in _STAGES.items():
        stage = extra.child(name)
        stage.refuse_unless("num_modules", (modules,), f"{modules} is expected")
        stage.refuse_unless("num_branches", (branches,), f"{branches} is expected")
        stage.refuse_unless("num_blocks", ((4,) * branches,), "4 blocks a branch are expected")
        kind = "BOTTLENECK" if name == "stage1" else "BASIC"
        stage.refuse_unless("block", (kind,), f"{kind} is expected")
    for name in ("stage2", "stage3", "stage4"):
        channels = extra.child(name)("num_channels")
        width = settings.keys.get("MODEL.HRNETV2P.WIDTH")
        if isinstance(channels, (list, tuple)) and width is not None:
            expected = [width * 2**i for i in range(_STAGES[name][1])]
            if list(channels) != expected:
                extra.child(name).refuse("num_channels", f"the tensors have {expected}")
    settings.keys["MODEL.HRNETV2P.NORM_EVAL"] = bool(backbone("norm_eval", default=True))
    norm = norm_name(backbone, "BN")
    if norm not in ("BN", "SyncBN"):
        backbone.refuse("norm_cfg", "the backbone's normalization is BN or SyncBN")
    settings.keys["MODEL.HRNETV2P.NORM"] = norm


def _read_resnet(backbone: Node, settings: Settings) -> None:
    backbone.refuse_unless("num_stages", (4,), "4 is expected")
    backbone.refuse_unless("out_indices", ((0, 1, 2, 3),), "all four levels are expected")
    backbone.refuse_unless("strides", ((1, 2, 2, 2),), "the usual strides are expected")
    backbone.refuse_unless("dilations", ((1, 1, 1, 1),), "no dilation is expected")
    for name in ("deep_stem", "avg_down"):
        backbone.refuse_unless(name, (False,), "this package has none")
    keys = settings.keys
    keys["MODEL.RESNETS.STRIDE_IN_1X1"] = backbone("style", default="pytorch") == "caffe"
    # -1 is none, 0 the stem, 1 the first stage as well; Detectron2 counts the stem as 1.
    keys["MODEL.BACKBONE.FREEZE_AT"] = int(backbone.number("frozen_stages", default=-1)) + 1
    if not backbone("norm_eval", default=True):
        settings.notes.append(f"{backbone.place}.norm_eval False: training here keeps statistics")


def _read_neck(model: Node, settings: Settings) -> None:
    if isinstance(model("neck"), (list, tuple)):
        model.refuse("neck", "one neck is expected")
        return
    neck = model.child("neck")
    keys = settings.keys
    if not neck:
        return
    if neck("type") == "HRFPN":
        keys["MODEL.HRNETV2P.NECK.STRIDE"] = neck.number("stride", default=1)
        keys["MODEL.HRNETV2P.NECK.POOLING"] = str(neck("pooling_type", default="AVG")).lower()
        keys["MODEL.HRNETV2P.NECK.NORM"] = norm_name(neck)
        outs = keys.get("MODEL.HRNETV2P.NECK.NUM_OUTS", 5)
        if outs != 5 and settings.family != "fcos":
            keys["MODEL.RPN.IN_FEATURES"] = [f"p{i + 2}" for i in range(outs)]
        elif outs != 5:
            keys["MODEL.FCOS.IN_FEATURES"] = [f"p{i + 3}" for i in range(outs)]
    elif neck("type") == "FPN":
        neck.refuse_unless("num_outs", (5,), "5 is expected")
        neck.refuse_unless("start_level", (0,), "all levels of the backbone are expected")
        neck.refuse_unless("add_extra_convs", (False, None), "this package has none")
        keys["MODEL.FPN.NORM"] = norm_name(neck)
    else:
        neck.refuse("type", "this package has HRFPN and FPN")
