"""MMDetection 1.x: names and order of classes."""

import logging

import pytest
import torch

from hrnet_d2.checkpoint import Checkpointer, load_file
from hrnet_d2.checkpoint.legacy import upgrade
from hrnet_d2.checkpoint.recognition import Layout, recognize
from tests.checkpoint import samples


def to_v1(state: dict[str, torch.Tensor], fork: bool = False) -> dict[str, torch.Tensor]:
    """What 1.x would have saved: background first, with regression and masks of its own."""
    old = {}
    for name, value in state.items():
        name = name.removeprefix("roi_head.")
        if "fc_cls" in name:
            value = torch.cat([value[-1:], value[:-1]])
        elif "fc_reg" in name and len(value) > 4:
            value = torch.cat([torch.full_like(value[:4], 9.0), value])
        elif "conv_logits" in name:
            value = torch.cat([torch.full_like(value[:1], 9.0), value])
        if fork and name.startswith("neck."):  # as HRNet-Object-Detection names it
            name = name.replace("reduction_conv.conv", "reduction_conv.0")
            name = name.replace("fpn_convs", "fpn_conv").replace(".conv.", ".")
        old[name] = value
    return old


@pytest.mark.parametrize("name", [samples.FASTER, samples.MASK])
@pytest.mark.parametrize("fork", [False, True])
def test_background_moves_to_the_end(tmp_path, name, fork, caplog):
    source = samples.model(name)
    old = to_v1(samples.mmdet_state(source), fork)
    assert ("neck.fpn_conv.0.weight" in old) == fork
    torch.save({"state_dict": old}, tmp_path / "v1.pth")
    target = samples.model(name, seed=1)
    with caplog.at_level(logging.WARNING):
        Checkpointer(target).load(str(tmp_path / "v1.pth"))
    samples.assert_same(source, target)
    assert "MMDetection 1.x conventions" in caplog.text
    assert "MODEL.ARITHMETIC mmdet1" in caplog.text
    checkpoint = load_file(str(tmp_path / "v1.pth"))
    assert checkpoint.layout is Layout.MMDET_V1
    # RPN scores are sigmoids: no background to move
    key = "proposal_generator.rpn_head.objectness_logits.bias"
    assert torch.equal(checkpoint.state[key], source.state_dict()[key])


def test_class_agnostic_regression_stays():
    old = {
        "rpn_head.rpn_cls.bias": torch.arange(3.0),
        "bbox_head.0.fc_cls.bias": torch.arange(6.0),
        "bbox_head.0.fc_reg.bias": torch.arange(4.0),
        "mask_head.0.conv_logits.bias": torch.arange(6.0),
        "semantic_head.conv_logits.bias": torch.arange(6.0),
    }
    new = upgrade(old)
    assert new["roi_head.bbox_head.0.fc_cls.bias"].tolist() == [1, 2, 3, 4, 5, 0]
    assert new["roi_head.bbox_head.0.fc_reg.bias"].tolist() == [0, 1, 2, 3]
    assert new["roi_head.mask_head.0.conv_logits.bias"].tolist() == [1, 2, 3, 4, 5]
    assert new["roi_head.semantic_head.conv_logits.bias"].tolist() == [0, 1, 2, 3, 4, 5]
    assert new["rpn_head.rpn_cls.bias"].tolist() == [0, 1, 2]


def test_what_tells_the_versions_apart():
    two_stage = {"backbone.conv1.weight", "rpn_head.rpn_cls.bias"}
    assert recognize(two_stage | {"bbox_head.fc_cls.bias"}) is Layout.MMDET_V1
    assert recognize(two_stage | {"roi_head.bbox_head.fc_cls.bias"}) is Layout.MMDET
    # files of 1.x that MMDetection's own tool has upgraded keep the version they came from
    assert recognize(two_stage | {"roi_head.bbox_head.fc_cls.bias"}, "1.0.0") is Layout.MMDET
    one_stage = {"backbone.conv1.weight", "bbox_head.fcos_cls.bias"}
    assert recognize(one_stage) is Layout.MMDET
    assert recognize(one_stage, "1.2.0") is Layout.MMDET_V1
    assert recognize(one_stage, "2.0.0") is Layout.MMDET
