"""Small models, and their weights as other projects would save them."""

import copy
import functools
import re

import torch
from detectron2.modeling import build_model

from hrnet_d2 import model_zoo
from tests import depth

FASTER = "faster_rcnn_hrnetv2p_w18_1x_coco"
MASK = "mask_rcnn_hrnetv2p_w18_1x_coco"
CASCADE = "cascade_rcnn_hrnetv2p_w18_20e_coco"
FCOS = "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco"

# Our names to MMDetection's, written apart from the tables under test.
_TO_MMDET = [
    (r"backbone\.bottom_up\.(.*)", r"backbone.\1"),
    (r"backbone\.reduction_conv\.(.*)", r"neck.reduction_conv.conv.\1"),
    (r"proposal_generator\.rpn_head\.conv\.(.*)", r"rpn_head.rpn_conv.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.*)", r"rpn_head.rpn_cls.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.*)", r"rpn_head.rpn_reg.\1"),
    (r"roi_heads\.box_head\.fc1\.(.*)", r"roi_head.bbox_head.shared_fcs.0.\1"),
    (r"roi_heads\.box_head\.fc2\.(.*)", r"roi_head.bbox_head.shared_fcs.1.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"roi_head.bbox_head.fc_cls.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"roi_head.bbox_head.fc_reg.\1"),
    (r"roi_heads\.mask_head\.deconv\.(.*)", r"roi_head.mask_head.upsample.\1"),
    (r"roi_heads\.mask_head\.predictor\.(.*)", r"roi_head.mask_head.conv_logits.\1"),
]


def _to_mmdet(name: str) -> str:
    if match := re.fullmatch(r"backbone\.fpn_output(\d)\.(.*)", name):
        return f"neck.fpn_convs.{int(match[1]) - 2}.conv.{match[2]}"
    if match := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d)\.(.*)", name):
        return f"roi_head.mask_head.convs.{int(match[1]) - 1}.conv.{match[2]}"
    for pattern, theirs in _TO_MMDET:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, theirs, name)
    raise AssertionError(name)


def config(name: str = FASTER, classes: int = 5, width: int = 2):
    """A config of the zoo, made tiny."""
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.HRNETV2P.WIDTH = width
    cfg.MODEL.HRNETV2P.NECK.OUT_CHANNELS = 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.FCOS.NUM_CLASSES = classes
    return cfg


@functools.cache
def _build(name: str, changes: tuple, depth: tuple):
    return build_model(config(name, **dict(changes)))


def model(name: str = FASTER, seed: int = 0, **changes):
    """A tiny model whose every tensor has random values."""
    built = copy.deepcopy(_build(name, tuple(changes.items()), depth.now()))
    generator = torch.Generator().manual_seed(seed)
    for tensor in built.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return built


def mmdet_state(source) -> dict[str, torch.Tensor]:
    """The weights of a Faster or Mask R-CNN by MMDetection's names."""
    return {_to_mmdet(name): value.clone() for name, value in source.state_dict().items()}


def save_mmdet(source, path, **beside) -> str:
    """Write a model as MMDetection would; returns the path."""
    torch.save({"meta": {"epoch": 1}, "state_dict": mmdet_state(source), **beside}, path)
    return str(path)


def assert_same(model_a, model_b) -> None:
    """Every tensor of the two models is equal."""
    a, b = model_a.state_dict(), model_b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
