"""Every tensor of every family finds its place, by names and shapes alone."""

import logging

import pytest
import torch
from detectron2.modeling import build_model

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint.formats import Contents
from hrnet_d2.checkpoint.loading import account
from hrnet_d2.checkpoint.matching import match_to_model
from hrnet_d2.checkpoint.recognition import Layout, describe
from hrnet_d2.checkpoint.renaming import rename
from tests.parity import load_case

CONFIGS = {
    "faster_rcnn_hrnetv2p_w18": "faster_rcnn_hrnetv2p_w18_1x_coco",
    "mask_rcnn_hrnetv2p_w32": "mask_rcnn_hrnetv2p_w32_1x_coco",
    "cascade_rcnn_hrnetv2p_w18": "cascade_rcnn_hrnetv2p_w18_20e_coco",
    "cascade_mask_rcnn_hrnetv2p_w18": "cascade_mask_rcnn_hrnetv2p_w18_20e_coco",
    "htc_hrnetv2p_w18": "htc_hrnetv2p_w18_20e_coco",
    "htc_x101_64x4d_fpn": "htc_x101_64x4d_fpn_28e_coco",
    "fcos_hrnetv2p_w18": "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco",
    "fcos_hrnetv2p_w48": "fcos_hrnetv2p_w48_gn-head_mstrain_640-800_4x4_2x_coco",
}
FAMILIES = {
    "faster_rcnn_hrnetv2p_w18": "Faster R-CNN, HRNet-W18, 80 classes",
    "mask_rcnn_hrnetv2p_w32": "Mask R-CNN, HRNet-W32, 80 classes",
    "cascade_rcnn_hrnetv2p_w18": "Cascade R-CNN, HRNet-W18, 80 classes",
    "cascade_mask_rcnn_hrnetv2p_w18": "Cascade Mask R-CNN, HRNet-W18, 80 classes",
    "htc_hrnetv2p_w18": "Hybrid Task Cascade, HRNet-W18, 80 classes",
    "htc_x101_64x4d_fpn": "Hybrid Task Cascade, ResNeXt-101-64x4d, 80 classes",
    "fcos_hrnetv2p_w18": "FCOS, HRNet-W18, 80 classes",
    "fcos_hrnetv2p_w48": "FCOS, HRNet-W48, 80 classes",
}


def meta_contents(case: str) -> dict[str, torch.Tensor]:
    parameters = load_case(case).spec["parameters"]
    return {name: torch.empty(shape, device="meta") for name, shape in parameters}


def meta_model(name: str):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("case", CONFIGS)
def test_every_tensor_of_every_family_is_used(case):
    tensors = meta_contents(case)
    checkpoint = account(Contents(tensors), "x.pth")
    assert checkpoint.layout is Layout.MMDET
    assert checkpoint.unknown == [] and checkpoint.unused == {}
    assert checkpoint.names.keys() == tensors.keys()
    assert len(set(checkpoint.names.values())) == len(tensors)
    model = meta_model(CONFIGS[case])
    result = match_to_model(checkpoint, model)
    assert result.missing == [] and result.unexpected == [] and result.wrong_shape == {}
    # Norm layers that are frozen for good count no batches.
    left = [name for name in result.unused if not name.endswith("num_batches_tracked")]
    assert left == []
    absent = model.state_dict().keys() - result.state.keys()
    assert absent == set()
    shapes = {name: tuple(value.shape) for name, value in checkpoint.state.items()}
    assert str(describe(shapes)) == FAMILIES[case]


def test_both_generations_of_fcos_names():
    new = meta_contents("fcos_hrnetv2p_w18")
    old = {
        name.replace("bbox_head.conv_cls", "bbox_head.fcos_cls")
        .replace("bbox_head.conv_reg", "bbox_head.fcos_reg")
        .replace("bbox_head.conv_centerness", "bbox_head.fcos_centerness"): value
        for name, value in new.items()
    }
    assert old.keys() != new.keys()
    ours = account(Contents(old), "x.pth")
    assert ours.state.keys() == account(Contents(new), "x.pth").state.keys()
    assert ours.names["bbox_head.fcos_reg.bias"] == "head.bbox_pred.bias"


@pytest.mark.parametrize(
    "theirs, ours",
    [
        (
            "backbone.stage4.2.fuse_layers.3.0.2.1.bias",
            "bottom_up.stage4.2.fuse_layers.3.0.2.1.bias",
        ),
        ("neck.reduction_conv.conv.bias", "reduction_conv.bias"),
        ("neck.fpn_convs.4.conv.weight", "fpn_output6.weight"),
        ("neck.fpn_conv.4.weight", "fpn_output6.weight"),
        ("neck.lateral_convs.3.conv.bias", "fpn_lateral5.bias"),
    ],
)
def test_backbone_names(theirs, ours):
    names = rename([theirs, "rpn_head.rpn_cls.bias"], Layout.MMDET, Layout.HRNET)
    assert names[theirs] == f"backbone.{ours}"


def test_pyramid_of_fcos_begins_at_level_3():
    names = ["neck.fpn_convs.0.conv.weight", "bbox_head.conv_cls.bias"]
    assert rename(names, Layout.MMDET, Layout.HRNET)[names[0]] == "backbone.fpn_output3.weight"


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer3.22.conv2.weight", "res4.22.conv2.weight"),
        ("layer1.0.bn3.bias", "res2.0.conv3.norm.bias"),
        ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
        ("layer4.0.downsample.1.weight", "res5.0.shortcut.norm.weight"),
    ],
)
def test_resnet_names(theirs, ours):
    names = rename([theirs], Layout.RESNET, None)
    assert names[theirs] == f"backbone.bottom_up.{ours}"


@pytest.mark.parametrize(
    "name", ["roi_head.bbox_head.fc_iou.weight", "neck.fpn_convs.0.bn.weight", "backbone.stages.0"]
)
def test_unknown_names_are_told(name):
    tensors = {**meta_contents("faster_rcnn_hrnetv2p_w18"), name: torch.zeros(1)}
    assert account(Contents(tensors), "x.pth").unknown == [name]


def test_no_warning_of_old_arithmetic_for_new_files(caplog):
    with caplog.at_level(logging.WARNING):
        account(Contents(meta_contents("faster_rcnn_hrnetv2p_w18"), version="2.28.2"), "x.pth")
    assert caplog.text == ""
