"""MMDetection's ``roi_head`` and its training and test settings in Detectron2's keys."""

from .account import Node, Settings
from .mmdet_nms import read_final_nms
from .mmdet_parts import BOX_LOSSES, norm_name, read_box_loss

__all__ = ["read_roi_heads"]

_ROI_HEADS = (
    *("StandardRoIHead", "CascadeRoIHead", "HybridTaskCascadeRoIHead"),
    None,  # 1.x has none
)
_BOX_HEADS = (
    *("Shared2FCBBoxHead", "SharedFCBBoxHead", "ConvFCBBoxHead", "Shared4Conv1FCBBoxHead"),
)
_MASK_HEADS = ("FCNMaskHead", "HTCMaskHead")
_BRANCHES = ("num_cls_convs", "num_cls_fcs", "num_reg_convs", "num_reg_fcs")


def read_roi_heads(model: Node, settings: Settings) -> None:
    """Add the heads' options, losses and thresholds to ``settings.keys``."""
    keys = settings.keys
    roi = model.child("roi_head")
    if roi:
        if roi("type") not in _ROI_HEADS:
            roi.refuse("type", f"one of {', '.join(filter(None, _ROI_HEADS))} is expected")
        if roi("shared_head"):
            roi.refuse("shared_head", "this package has none")
        _read_pooler(roi.child("bbox_roi_extractor"), "MODEL.ROI_BOX_HEAD", settings)
        _read_box_heads(roi.children("bbox_head"), settings)
        if keys.get("MODEL.MASK_ON"):
            extractor = roi.child("mask_roi_extractor") or roi.child("bbox_roi_extractor")
            _read_pooler(extractor, "MODEL.ROI_MASK_HEAD", settings)
            _read_mask_heads(roi.children("mask_head"), settings)
        if weights := roi("stage_loss_weights"):
            keys["MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS"] = [float(w) for w in weights]
        if settings.family == "htc":
            _read_htc(roi, settings)
    _read_test(model.child("test_cfg").child("rcnn"), settings)
    _read_training(model.child("train_cfg"), settings)


def _read_pooler(extractor: Node, key: str, settings: Settings) -> None:
    if not extractor:
        return
    extractor.refuse_unless("type", ("SingleRoIExtractor",), "one level for each region here")
    extractor.refuse_unless("finest_scale", (56,), "56 is expected")
    extractor.refuse_unless("featmap_strides", ((4, 8, 16, 32),), "[4, 8, 16, 32] is expected")
    layer = extractor.child("roi_layer")
    layer.refuse_unless("type", ("RoIAlign",), "RoIAlign is expected")
    layer.refuse_unless("pool_mode", ("avg",), "the mean is expected")
    size = layer.number("output_size", "out_size")
    if size is not None:
        settings.keys[f"{key}.POOLER_RESOLUTION"] = int(size)
    ratio = layer.number("sampling_ratio", "sample_num")
    if ratio is not None:
        settings.keys[f"{key}.POOLER_SAMPLING_RATIO"] = max(0, int(ratio))
    if "aligned" in layer:
        settings.keys[f"{key}.POOLER_TYPE"] = "ROIAlignV2" if layer("aligned") else "ROIAlign"


def _read_box_heads(heads: list[Node], settings: Settings) -> None:
    if not heads:
        return
    keys = settings.keys
    for head in heads:
        head.refuse_unless("type", _BOX_HEADS, "convolutions, then linear layers are expected")
        head.refuse_unless("with_avg_pool", (False,), "this package has none")
        for name in _BRANCHES:
            head.refuse_unless(name, (0,), "classes and boxes share their layers here")
        loss = head.child("loss_cls")
        # Others bring an activation of their own, which matters at test.
        loss.refuse_unless("type", ("CrossEntropyLoss",), "softmax scores are expected")
        loss.refuse_unless("use_sigmoid", (False,), "softmax scores are expected")
        coder = head.child("bbox_coder")
        if coder:
            coder.refuse_unless("type", ("DeltaXYWHBBoxCoder",), "boxes as deltas are expected")
        (coder if "target_means" in coder else head).refuse_unless(
            "target_means", ((0, 0, 0, 0),), "means of 0 are expected"
        )
    weights = [_box_weights(head) for head in heads]
    cascade = settings.family not in ("faster_rcnn", "mask_rcnn")
    if cascade and all(weights):
        keys["MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"] = tuple(weights)
    elif weights[0]:
        keys["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"] = weights[0]
    agnostic = [bool(head("reg_class_agnostic", default=False)) for head in heads]
    if cascade and not all(agnostic):
        heads[agnostic.index(False)].refuse("reg_class_agnostic", "a cascade's boxes are agnostic")
    # The tensors tell it as well, except for a single class.
    keys.setdefault("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic[0])
    keys["MODEL.ROI_BOX_HEAD.NORM"] = norm_name(heads[0])
    read_box_loss(heads[0], "MODEL.ROI_BOX_HEAD", settings, BOX_LOSSES)


def _box_weights(head: Node) -> tuple[float, ...] | None:
    """Detectron2's weights: 1 / the standard deviations."""
    coder = head.child("bbox_coder")
    stds = (coder if "target_stds" in coder else head)("target_stds")
    if not isinstance(stds, (list, tuple)) or len(stds) != 4 or not all(stds):
        return None
    return tuple(1.0 / std for std in stds)


def _read_mask_heads(heads: list[Node], settings: Settings) -> None:
    for head in heads:
        head.refuse_unless("type", _MASK_HEADS, f"one of {', '.join(_MASK_HEADS)} is expected")
        head.refuse_unless("conv_kernel_size", (3,), "3 is expected")
        upsample = head.child("upsample_cfg")
        upsample.refuse_unless("type", ("deconv",), "a transposed convolution is expected")
        upsample.refuse_unless("scale_factor", (2,), "2 is expected")
    if heads:
        settings.keys["MODEL.ROI_MASK_HEAD.NORM"] = norm_name(heads[0])
        settings.keys.setdefault(
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", bool(heads[0]("class_agnostic", default=False))
        )


def _read_htc(roi: Node, settings: Settings) -> None:
    keys = settings.keys
    for name in ("interleaved", "mask_info_flow"):
        roi.refuse_unless(name, (True,), "True is expected")
    roi.refuse_unless("semantic_fusion", (("bbox", "mask"),), "both are expected")
    semantic = roi.child("semantic_head")
    if not semantic:
        return
    semantic.refuse_unless("type", ("FusedSemanticHead",), "FusedSemanticHead is expected")
    semantic.refuse_unless("num_convs", (4,), "4 is expected")
    semantic.refuse_unless("num_ins", (5,), "5 is expected")
    level = semantic.number("fusion_level", default=1)
    keys["MODEL.SEM_SEG_HEAD.COMMON_STRIDE"] = int(4 * 2**level)
    ignored = semantic.number("ignore_label")
    loss = semantic.child("loss_seg")  # since 2.15; before, two arguments of the head
    ignored = loss.number("ignore_index", default=ignored)
    if ignored is not None:
        keys["MODEL.SEM_SEG_HEAD.IGNORE_VALUE"] = int(ignored)
    weight = loss.number("loss_weight", default=semantic.number("loss_weight"))
    if weight is not None:
        keys["MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"] = float(weight)


def _read_test(rcnn: Node, settings: Settings) -> None:
    if not rcnn:
        return
    if (threshold := rcnn.number("score_thr")) is not None:
        settings.keys["MODEL.ROI_HEADS.SCORE_THRESH_TEST"] = float(threshold)
    read_final_nms(rcnn, "MODEL.ROI_HEADS.NMS_THRESH_TEST", settings)
    rcnn.refuse_unless("mask_thr_binary", (0.5,), "masks are cut at 0.5")


def _read_training(training: Node, settings: Settings) -> None:
    keys = settings.keys
    stages = training.children("rcnn")
    thresholds = [stage.child("assigner").number("pos_iou_thr") for stage in stages]
    if not stages or any(threshold is None for threshold in thresholds):
        return
    if settings.family in ("faster_rcnn", "mask_rcnn"):
        keys["MODEL.ROI_HEADS.IOU_THRESHOLDS"] = [thresholds[0]]
    else:
        keys["MODEL.ROI_BOX_CASCADE_HEAD.IOUS"] = tuple(thresholds)
    assigner, sampler = stages[0].child("assigner"), stages[0].child("sampler")
    keys["MODEL.ROI_HEADS.MATCH_LOW_QUALITY"] = bool(assigner("match_low_quality", default=True))
    if sampler("type", default="RandomSampler") != "RandomSampler":
        settings.notes.append(f"{sampler.place}.type {sampler('type')}: fine-tuning samples evenly")
    if (number := sampler.number("num")) is not None:
        keys["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"] = int(number)
    if (fraction := sampler.number("pos_fraction")) is not None:
        keys["MODEL.ROI_HEADS.POSITIVE_FRACTION"] = float(fraction)
