"""Choosing the arithmetic: which parts are built, and what is refused."""

import copy
import logging
import pickle

import detectron2.modeling
import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from hrnet_d2 import model_zoo
from hrnet_d2.modeling import build_model
from hrnet_d2.modeling.arithmetic import select_components, training_config
from hrnet_d2.modeling.mmdet1.boxes import (
    BoxTransform,
    ResizedSize,
    clip,
    resize_factor,
    to_network,
    to_original,
)
from hrnet_d2.modeling.mmdet1.masks import paste_masks

LEAVES = {
    "faster_rcnn_hrnetv2p_w18_1x_coco": "MMDet1RCNN",
    "cascade_mask_rcnn_hrnetv2p_w18_20e_coco": "MMDet1RCNN",
    "htc_hrnetv2p_w18_20e_coco": "MMDet1HybridTaskCascade",
    "htc_x101_64x4d_fpn_28e_coco": "MMDet1HybridTaskCascade",
    "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco": "MMDet1FCOS",
}


def config(name="faster_rcnn_hrnetv2p_w18_1x_coco", arithmetic="mmdet1"):
    cfg = model_zoo.get_config(name)
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ARITHMETIC = arithmetic
    return cfg


@pytest.mark.parametrize("name", LEAVES)
def test_components_by_key(name):
    cfg = config(name)
    before = cfg.clone()
    assert select_components(cfg).MODEL.META_ARCHITECTURE == LEAVES[name]
    assert cfg == before
    cfg.MODEL.ARITHMETIC = "mmdet2"
    assert select_components(cfg) is cfg


def test_same_tensors_in_both():
    old = build_model(config("htc_hrnetv2p_w18_20e_coco")).state_dict()
    new = build_model(config("htc_hrnetv2p_w18_20e_coco", "mmdet2")).state_dict()
    assert {k: v.shape for k, v in old.items()} == {k: v.shape for k, v in new.items()}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="MODEL.ARITHMETIC must be one of .*'mmdet9'"):
        build_model(config(arithmetic="mmdet9"))
    cfg = config()
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    with pytest.raises(ValueError, match="not available for 'Res5ROIHeads'"):
        build_model(cfg)


@pytest.mark.parametrize("name", [next(iter(LEAVES)), "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco"])
def test_detectron2s_own_build_model_is_no_silent_2x(name):
    with pytest.raises(ValueError, match="hrnet_d2.modeling.build_model"):
        detectron2.modeling.build_model(config(name))


@pytest.mark.parametrize("name", [next(iter(LEAVES)), "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco"])
def test_training_is_refused(name):
    model = build_model(config(name)).train()
    with pytest.raises(RuntimeError, match="'mmdet2' to fine-tune"):
        model([{"image": torch.zeros(3, 64, 64)}])


def test_fine_tuning_falls_back_with_one_line(caplog):
    cfg = config()
    cfg.freeze()
    with caplog.at_level(logging.WARNING, logger="hrnet_d2.modeling.arithmetic"):
        trained = training_config(cfg)
    assert trained.MODEL.ARITHMETIC == "mmdet2" and trained.is_frozen()
    assert cfg.MODEL.ARITHMETIC == "mmdet1"
    assert [r.getMessage() for r in caplog.records if "fine-tuning starts" in r.getMessage()]
    assert len(caplog.records) == 1
    assert training_config(trained) is trained


# ------------------------------------------------------------------ boxes and masks


def test_boxes_in_the_notation_of_1x():
    """Clipping and both ways, in first and last pixels as 1.x writes them."""
    generator = torch.Generator().manual_seed(0)
    inclusive = torch.rand(200, 4, generator=generator) * 160 - 40
    inclusive[:, 2:] = inclusive[:, :2] + torch.rand(200, 2, generator=generator) * 50
    height, width, scale = 60, 90, 1.37
    half_open = inclusive + torch.tensor([0.0, 0, 1, 1])
    limits = torch.tensor([width - 1.0, height - 1, width - 1, height - 1])
    clipped = inclusive.clamp(min=0).minimum(limits)
    made = clip(half_open, (height, width))
    torch.testing.assert_close(made, clipped + torch.tensor([0.0, 0, 1, 1]))
    assert (made[:, 2:] > made[:, :2]).all(), "a box outside keeps a pixel of the border"
    original = to_original(made, scale)
    torch.testing.assert_close(original, clipped / scale + torch.tensor([0.0, 0, 1, 1]))
    torch.testing.assert_close(to_network(original, scale), made)


def test_sizes_of_boxes_are_bounded_below_too():
    weights = (10.0, 10.0, 5.0, 5.0)
    boxes = torch.tensor([[10.0, 20, 74, 84]]).expand(3, 4)
    deltas = torch.tensor([[1.0, -2, 0.5, 3]]).repeat(3, 2)
    deltas[1, 2] = deltas[2, 7] = -1000.0
    stock = Box2BoxTransform(weights).apply_deltas(deltas, boxes)
    bounded = BoxTransform(weights).apply_deltas(deltas, boxes)
    torch.testing.assert_close(stock[0], bounded[0])
    sides = (bounded.view(3, 2, 4)[..., 2:] - bounded.view(3, 2, 4)[..., :2]).view(3, 4)
    assert sides[1, 0] == pytest.approx(64 * 16 / 1000, rel=1e-4)
    assert sides[2, 3] == pytest.approx(64 * 16 / 1000, rel=1e-4)


@pytest.mark.parametrize(
    "original, resized, edges, factor",
    [
        ((480, 640), (800, 1067), (800, 1333), 800 / 480),
        ((300, 900), (444, 1333), (800, 1333), 1333 / 900),
        ((480, 640), (480, 640), (0, 1333), 1.0),
        ((480, 640), (240, 320), (800, 1333), 0.5),  # resized in another way
    ],
)
def test_one_factor(original, resized, edges, factor):
    assert resize_factor(original, resized, *edges) == factor


def test_sizes_pass_for_detectron2s():
    size = ResizedSize((30, 40), 1.5)
    height, width = size
    assert (height, width) == size == (30, 40) and size.scale == 1.5
    for other in (copy.deepcopy(size), pickle.loads(pickle.dumps(size))):
        assert other == size and other.scale == 1.5


def test_masks_keep_to_whole_pixels():
    masks = torch.zeros(4, 4, 4)
    masks[:, :2] = 1.0
    boxes = torch.tensor(
        [[2.9, 3.2, 10.9, 11.9], [0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 5.2, 5.2], [16.0, 9, 21.0, 14]]
    )
    pasted = paste_masks(masks, boxes, (12, 20))
    assert pasted.shape == (4, 12, 20) and pasted.dtype == torch.bool
    ys, xs = pasted[0].nonzero(as_tuple=True)
    # First pixel 2.9 -> 2 and 3.2 -> 3, last pixel 9.9 -> 9 and 10.9 -> 10: 8 x 8, upper half.
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (2, 9, 3, 6)
    assert torch.equal(pasted[1, :4, :4], masks[1] > 0.5)
    assert pasted[2].sum() <= 1  # a box within a pixel has that pixel
    assert pasted[3, :, :16].sum() == 0  # and what lies outside of the image is cut off
