"""MMDetection's ``rpn_head`` and its training and test settings in Detectron2's keys."""

from .account import Node, Settings
from .mmdet_parts import BOX_LOSSES, read_box_loss

__all__ = ["nms_threshold", "read_rpn"]

_STRIDES = (4, 8, 16, 32, 64)


def read_rpn(model: Node, settings: Settings) -> None:
    """Add anchors, losses, thresholds and numbers of proposals to ``settings.keys``."""
    head = model.child("rpn_head")
    if head:
        head.refuse_unless("type", ("RPNHead",), "this package has RPNHead")
        head.refuse_unless("num_convs", (1,), "one convolution is expected")
        head.child("loss_cls").refuse_unless("use_sigmoid", (True,), "a sigmoid is expected")
        _read_anchors(head, settings)
        read_box_loss(head, "MODEL.RPN", settings, BOX_LOSSES)
        coder = head.child("bbox_coder")
        stds = (coder if "target_stds" in coder else head)("target_stds")
        if isinstance(stds, (list, tuple)) and len(stds) == 4 and all(stds):
            settings.keys["MODEL.RPN.BBOX_REG_WEIGHTS"] = tuple(1.0 / std for std in stds)
        _refuse_means(coder if "target_means" in coder else head)
    _read_test(model.child("test_cfg").child("rpn"), settings)
    _read_training(model.child("train_cfg"), settings)


def _refuse_means(node: Node) -> None:
    node.refuse_unless("target_means", ((0, 0, 0, 0),), "means of 0 are expected")


def _read_anchors(head: Node, settings: Settings) -> None:
    """Sizes of the anchors of each level: the stride (or base size) times each scale."""
    generator = head.child("anchor_generator")
    if generator:
        generator.refuse_unless("type", ("AnchorGenerator",), "the arithmetic of 1.x is separate")
        names = ("strides", "scales", "ratios", "base_sizes")
    else:
        generator = head
        names = ("anchor_strides", "anchor_scales", "anchor_ratios", "anchor_base_sizes")
    strides, scales, ratios, bases = (generator(name) for name in names)
    octave, steps = (generator(n) for n in ("octave_base_scale", "scales_per_octave"))
    if scales is None and octave is not None and steps:
        scales = [octave * 2 ** (i / steps) for i in range(int(steps))]
    strides = strides or _STRIDES
    if not (_numbers(strides) and _numbers(scales) and _numbers(ratios)):
        settings.assumed.append(f"anchors as in the family's config: {generator.place} is unclear")
        return
    if tuple(strides) != _STRIDES[: len(strides)]:
        generator.refuse(names[0], f"{list(_STRIDES)} is expected")
    # With several of both, MMDetection counts the scales of a ratio first, Detectron2 the ratios
    # of a scale, so that the outputs would change their places.
    if len(scales) > 1 and len(ratios) > 1 and generator("scale_major", default=True):
        settings.keys["MODEL.ANCHOR_GENERATOR.NAME"] = "RatioMajorAnchorGenerator"
    if generator is head and _numbers(bases) and tuple(bases) != tuple(strides):
        # 1.x centers its anchors by them.
        generator.refuse(names[3], "base sizes equal to the strides are expected")
    bases = bases if _numbers(bases) else strides
    settings.keys["MODEL.ANCHOR_GENERATOR.SIZES"] = [[b * s for s in scales] for b in bases]
    settings.keys["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] = [list(ratios)]
    settings.keys["MODEL.ANCHOR_GENERATOR.OFFSET"] = float(
        generator.number("center_offset", default=0.0)
    )


def _numbers(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(v, (int, float)) for v in value)
    )


def _read_test(rpn: Node, settings: Settings) -> None:
    keys = settings.keys
    if not rpn:
        return
    rpn.refuse_unless("nms_across_levels", (False,), "levels are separate here")
    for name, key in (("nms_pre", "PRE_NMS_TOPK_TEST"), ("max_per_img", "POST_NMS_TOPK_TEST")):
        names = (name, "max_num") if name == "max_per_img" else (name,)
        if (number := rpn.number(*names)) is not None:
            keys[f"MODEL.RPN.{key}"] = int(number)
    limit, most = rpn.number("nms_post"), rpn.number("max_per_img", "max_num")
    if limit is not None and most is None:
        keys["MODEL.RPN.POST_NMS_TOPK_TEST"] = int(limit)
    elif limit is not None and limit < most:
        rpn.refuse("nms_post", "there is no limit for a level after NMS")
    if (threshold := nms_threshold(rpn)) is not None:
        keys["MODEL.RPN.NMS_THRESH"] = threshold
    if (size := rpn.number("min_bbox_size")) is not None:
        keys["MODEL.PROPOSAL_GENERATOR.MIN_SIZE"] = size


def nms_threshold(node: Node) -> float | None:
    """The IoU of ``nms=dict(iou_threshold=...)``, of 1.x's ``iou_thr`` or of ``nms_thr``."""
    nms = node.child("nms")
    value = nms.number("iou_threshold", "iou_thr") if nms else node.number("nms_thr")
    return None if value is None else float(value)


def _read_training(training: Node, settings: Settings) -> None:
    keys = settings.keys
    rpn, proposals = training.child("rpn"), training.child("rpn_proposal")
    assigner, sampler = rpn.child("assigner"), rpn.child("sampler")
    if {"pos_iou_thr", "neg_iou_thr"} <= assigner.values.keys():
        low, high = assigner.number("neg_iou_thr"), assigner.number("pos_iou_thr")
        if low is not None and high is not None:
            keys["MODEL.RPN.IOU_THRESHOLDS"] = [low, high]
    if (least := assigner.number("min_pos_iou")) is not None:
        keys["MODEL.RPN.MIN_POS_IOU"] = float(least)
    if (border := rpn.number("allowed_border")) is not None:
        keys["MODEL.RPN.BOUNDARY_THRESH"] = int(border)
    if (number := sampler.number("num")) is not None:
        keys["MODEL.RPN.BATCH_SIZE_PER_IMAGE"] = int(number)
    if (fraction := sampler.number("pos_fraction")) is not None:
        keys["MODEL.RPN.POSITIVE_FRACTION"] = float(fraction)
    if (number := proposals.number("nms_pre")) is not None:
        keys["MODEL.RPN.PRE_NMS_TOPK_TRAIN"] = int(number)
    if (number := proposals.number("max_per_img", "max_num", "nms_post")) is not None:
        keys["MODEL.RPN.POST_NMS_TOPK_TRAIN"] = int(number)
