"""MMDetection's ``FCOSHead`` and its test settings in this package's keys."""

from .account import Node, Settings
from .mmdet_nms import read_final_nms

__all__ = ["read_fcos"]

_BOX_LOSSES = {"IoULoss": "iou", "GIoULoss": "giou", "DIoULoss": "diou"}
_STRIDES = (8, 16, 32, 64, 128)


def read_fcos(model: Node, settings: Settings) -> None:
    """Add the head's options and the test settings to ``settings.keys``."""
    keys = settings.keys
    head = model.child("bbox_head")
    if head:
        head.refuse_unless("type", ("FCOSHead",), "this package has FCOSHead")
        head.refuse_unless("strides", (_STRIDES,), f"{list(_STRIDES)} is expected")
        coder = head.child("bbox_coder")
        coder.refuse_unless("type", ("DistancePointBBoxCoder",), "distances are expected")
        coder.refuse_unless("clip_border", (True,), "boxes are clipped here")
        channels = keys.get("MODEL.HRNETV2P.NECK.OUT_CHANNELS", 256)
        head.refuse_unless("feat_channels", (channels,), "the neck's channels are expected")
        head.child("loss_cls").refuse_unless("use_sigmoid", (True,), "a sigmoid is expected")
        sampling = bool(head("center_sampling", default=False))
        radius = float(head.number("center_sample_radius", default=1.5))
        keys["MODEL.FCOS.CENTER_SAMPLING_RADIUS"] = radius if sampling else 0.0
        keys["MODEL.FCOS.NORM_ON_BBOX"] = bool(head("norm_on_bbox", default=False))
        keys["MODEL.FCOS.CENTERNESS_ON_REG"] = bool(head("centerness_on_reg", default=False))
        _read_ranges(head, settings)
        _read_losses(head, settings)
        if "norm_cfg" in head and head("norm_cfg") is None and keys.get("MODEL.FCOS.NORM"):
            head.refuse("norm_cfg", "the tensors have normalization layers in the head")
        kind = head.child("norm_cfg")("type")
        if kind not in (None, "GN"):
            head.refuse("norm_cfg", "the head's normalization is GN or none")
    test = model.child("test_cfg")
    if not test:
        return
    if (number := test.number("nms_pre")) is not None:
        keys["MODEL.FCOS.TOPK_CANDIDATES_TEST"] = int(number)
    if (threshold := test.number("score_thr")) is not None:
        keys["MODEL.FCOS.SCORE_THRESH_TEST"] = float(threshold)
    test.refuse_unless("min_bbox_size", (0, -1), "0 is expected")
    read_final_nms(test, "MODEL.FCOS.NMS_THRESH_TEST", settings)


def _read_ranges(head: Node, settings: Settings) -> None:
    ranges = head("regress_ranges")
    if isinstance(ranges, (list, tuple)) and all(
        isinstance(r, (list, tuple)) and len(r) == 2 for r in ranges
    ):
        settings.keys["MODEL.FCOS.SIZES_OF_INTEREST"] = [r[1] for r in ranges[:-1]]


def _read_losses(head: Node, settings: Settings) -> None:
    keys = settings.keys
    kind = head.child("loss_bbox")("type")
    if kind in _BOX_LOSSES:
        keys["MODEL.FCOS.BOX_LOSS"] = _BOX_LOSSES[kind]
    elif kind is not None:
        settings.notes.append(f"{head.place}.loss_bbox.type {kind}: fine-tuning uses -log IoU")
    loss = head.child("loss_cls")
    if (gamma := loss.number("gamma")) is not None:
        keys["MODEL.FCOS.FOCAL_LOSS_GAMMA"] = float(gamma)
    if (alpha := loss.number("alpha")) is not None:
        keys["MODEL.FCOS.FOCAL_LOSS_ALPHA"] = float(alpha)
