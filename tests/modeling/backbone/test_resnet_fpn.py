"""ResNeXt-FPN on running statistics."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone

from hrnet_d2 import add_hrnet_config
from hrnet_d2.modeling import build_norm_eval_resnet_fpn_backbone
from tests.modeling.roi_heads.tiny_cascade import CONFIGS


def make_config(depth=50):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(CONFIGS / "htc/htc_x101_64x4d_fpn_28e_coco.yaml")
    cfg.MODEL.RESNETS.DEPTH = depth
    return cfg


@pytest.fixture
def backbone():
    cfg = make_config()
    cfg.MODEL.RESNETS.NUM_GROUPS = 2
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    return build_norm_eval_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))


def norms(backbone):
    return [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_running_statistics_stay_while_weights_and_biases_learn(backbone):
    assert backbone.train() is backbone and backbone.training
    assert norms(backbone) and not any(m.training for m in norms(backbone))
    before = [m.running_mean.clone() for m in norms(backbone)]
    outputs = backbone(torch.randn(2, 3, 64, 96))
    sum(x.mean() for x in outputs.values()).backward()
    for layer, mean in zip(norms(backbone), before, strict=True):
        assert torch.equal(layer.running_mean, mean)
        assert layer.weight.grad is not None and layer.bias.grad is not None


def test_stem_and_first_stage_are_frozen(backbone):
    for name, parameter in backbone.named_parameters():
        frozen = "bottom_up.stem" in name or "bottom_up.res2" in name
        assert parameter.requires_grad != frozen, name
    assert isinstance(backbone.bottom_up.stem.conv1.norm, FrozenBatchNorm2d)


def test_levels(backbone):
    shapes = backbone.output_shape()
    assert [shapes[f"p{i}"].stride for i in range(2, 7)] == [4, 8, 16, 32, 64]
    assert backbone.size_divisibility == 32
    outputs = backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert outputs["p6"].shape[-2:] == (1, 2)  # the ceiling, unlike HRFPN


def test_names_are_detectron2s_and_the_backbone_is_resnext_101():
    cfg = make_config(depth=101)
    with torch.device("meta"):
        ours = build_norm_eval_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
        cfg.MODEL.RESNETS.NORM = "FrozenBN"
        stock = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    names = {name for name in ours.state_dict() if not name.endswith("num_batches_tracked")}
    assert names == set(stock.state_dict())
    block = ours.bottom_up.res5[0].conv2
    assert (block.groups, block.in_channels, tuple(block.stride)) == (64, 2048, (2, 2))
