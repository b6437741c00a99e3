"""The reference cases of the two-stage families: what MMDetection computes, from its own files.

FCOS's are in ``test_fcos.py``.
"""

import copy
import functools
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, pairwise_iou

from hrnet_d2 import Predictor, model_zoo
from hrnet_d2.checkpoint import Checkpointer, load_file
from hrnet_d2.layers.cpu_training import use_cpu_layers
from tests.parity import (
    FEATURE_TOLERANCE,
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    feature_error,
    load_case,
    mask_ious,
    match_detections,
    sample_everything,
    training_step,
)

CASES = {
    "faster_rcnn_hrnetv2p_w18": "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
    "mask_rcnn_hrnetv2p_w32": "mask_rcnn/mask_rcnn_hrnetv2p_w32_1x_coco.yaml",
    "cascade_rcnn_hrnetv2p_w18": "cascade_rcnn/cascade_rcnn_hrnetv2p_w18_20e_coco.yaml",
    "cascade_mask_rcnn_hrnetv2p_w18": (
        "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml"
    ),
    "htc_hrnetv2p_w18": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "htc_x101_64x4d_fpn": "htc/htc_x101_64x4d_fpn_28e_coco.yaml",
}
# Cascade R-CNN's losses are among those of Cascade Mask R-CNN.
SLOW = ("cascade_rcnn_hrnetv2p_w18", "htc_hrnetv2p_w18", "htc_x101_64x4d_fpn")
OTHER_LOSSES = {"loss_sem_seg": "loss_semantic_seg", "loss_rpn_loc": "loss_rpn_bbox"}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """From a case's name to the case, its config, the file of its weights, the model with them,
    and MMDetection's names to ours; the tests of a case share them."""

    @functools.cache
    def build(name):
        case = load_case(name)
        cfg = model_zoo.get_config(CASES[name])
        cfg.defrost()
        case.configure(cfg)
        path = case.save_checkpoint(tmp_path_factory.mktemp(name) / "case.pth")
        everything = cfg.clone()
        sample_everything(everything)
        model = build_model(everything)
        Checkpointer(model).load(path)
        return case, cfg, path, model, load_file(path).names

    return build


def assert_detections(case, detections):
    """The detections and, where the case has them, the masks are the case's."""
    arrays = case.arrays
    pairs = match_detections(case, detections)
    assert len(detections) == len(arrays["pred_boxes"])
    assert len(pairs) >= 0.98 * len(detections)
    if "pred_masks_packed_first20" in arrays:
        ious = mask_ious(case, detections, pairs)
        assert len(ious) >= 18 and min(ious) > 0.98
        areas = torch.from_numpy(arrays["pred_mask_areas"])
        for expected, made in pairs:
            area = detections.pred_masks[made].sum()
            assert abs(area - areas[expected]) <= 0.02 * areas[expected] + 4


def slow_where(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in names else n for n in CASES]


@pytest.mark.parametrize("name", slow_where(["htc_x101_64x4d_fpn"]))
@torch.no_grad()
def test_inference(name, load):
    case, cfg, _, model, _ = load(name)
    model.eval()
    arrays, inputs = case.arrays, case.inputs(cfg)
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    for i in range(5):
        assert feature_error(features[f"p{i + 2}"], arrays[f"neck{i}"]) < FEATURE_TOLERANCE

    (proposals,), _ = model.proposal_generator(images, features)
    iou = pairwise_iou(Boxes(torch.from_numpy(arrays["proposal_boxes"])), proposals.proposal_boxes)
    assert len(proposals) == len(arrays["proposal_boxes"])
    assert (iou.amax(dim=1) > 0.99).all() and (iou.amax(dim=0) > 0.99).all()

    if "semantic_logits" in arrays:
        head = model.roi_heads.semantic_head
        made = {"semantic_logits": head.predict(features), "semantic_feature": head(features)[0]}
        for key, value in made.items():
            sample = value[0, :: max(1, value.shape[1] // 8), ::4, ::4].numpy()
            error = np.abs(sample - arrays[key]).max() / np.abs(arrays[key]).max()
            assert error < FEATURE_TOLERANCE

    inputs[0]["height"], inputs[0]["width"] = case.spec["original_size"]
    assert_detections(case, model(inputs)[0]["instances"])


@pytest.mark.parametrize("name", ["faster_rcnn_hrnetv2p_w18", "mask_rcnn_hrnetv2p_w32"])
def test_photograph_to_detections(name, load):
    """The front door: the file in MODEL.WEIGHTS, the original image, the optimized network."""
    case, cfg, path, _, _ = load(name)
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = path
    assert_detections(case, Predictor(cfg)(case.image)["instances"])


@pytest.mark.parametrize("name", slow_where(SLOW))
def test_losses_and_gradients(name, load):
    case, cfg, _, model, names = load(name)
    assert_losses_and_gradients(case, cfg, model, names)


@pytest.mark.parametrize("name", ["faster_rcnn_hrnetv2p_w18", "mask_rcnn_hrnetv2p_w32"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_losses_and_gradients_by_the_kernels_of_training(name, channels_last, load):
    case, cfg, _, model, names = load(name)
    model = use_cpu_layers(copy.deepcopy(model))
    model.backbone.bottom_up.trains_channels_last = channels_last
    assert_losses_and_gradients(case, cfg, model, names)


def assert_losses_and_gradients(case, cfg, model, names):
    expected = dict(case.spec["losses"])
    if "loss_semantic_seg" in expected:
        # 3.3.0 divides by every pixel, the published recipe by those not ignored; the map is
        # padded to the images' size.
        labels = case.arrays["gt_semantic"][::8, ::8]
        pixels = np.prod([-(-size // 32) * 4 for size in case.spec["resized_size"]])
        expected["loss_semantic_seg"] *= pixels / (labels != 255).sum()

    losses = training_step(model, case, cfg)
    assert len(losses) == len(expected)
    for ours, loss in losses.items():
        theirs = OTHER_LOSSES.get(ours, re.sub(r"(\w+)_stage(\d)", r"s\2.\1", ours))
        theirs = theirs.replace("box_reg", "bbox")
        assert loss == pytest.approx(expected[theirs], rel=LOSS_TOLERANCE), ours

    parameters = dict(model.named_parameters())
    for theirs, norm in case.spec["gradient_norms"].items():
        made = float(parameters[names[theirs]].grad.norm())
        assert made == pytest.approx(norm, rel=GRADIENT_TOLERANCE), theirs
    assert not [n for n, p in parameters.items() if p.requires_grad and p.grad is None]
