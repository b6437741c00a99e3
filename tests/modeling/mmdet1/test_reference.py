"""The reference cases of MMDetection 1.x, and that they depend on each of its conventions."""

import functools

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ROIMasks, pairwise_iou
from torchvision.ops import clip_boxes_to_image

from hrnet_d2 import Predictor, model_zoo
from hrnet_d2.modeling.mmdet1 import fcos, meta_arch, roi_heads, rpn
from hrnet_d2.modeling.mmdet1.pooling import MMDet1ROIPooler
from tests.parity import load_case, match_detections, unpack_masks

CASES = {
    "v1_faster_rcnn_w48": "faster_rcnn/faster_rcnn_hrnetv2p_w48_2x_coco.yaml",
    "v1_cascade_mask_rcnn_w18": "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml",
    "v1_htc_w18": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "v1_fcos_w48": "fcos/fcos_hrnetv2p_w48_gn-head_mstrain_640-800_4x4_2x_coco.yaml",
}


class Remembered(Backbone):
    """A backbone that runs once for each input: many tests share a model and its image."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.known = {}

    @property
    def size_divisibility(self):
        return self.inner.size_divisibility

    def forward(self, x):
        key = (tuple(x.shape), x.numpy().tobytes())
        if key not in self.known:
            self.known[key] = self.inner(x)
        return self.known[key]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """From a case's name to the case and a predictor without rewriting, whose backbone runs once
    for an image."""

    @functools.cache
    def build(name):
        case = load_case(f"mmdet1/{name}")
        cfg = model_zoo.get_config(CASES[name])
        cfg.defrost()
        case.configure(cfg)
        cfg.MODEL.WEIGHTS = case.save_checkpoint(tmp_path_factory.mktemp(name) / "epoch_1.pth")
        predictor = Predictor(cfg, optimize=False)
        predictor.model.backbone = Remembered(predictor.model.backbone)
        return case, predictor

    return build


def differences(case, detections, pixels=1e-3):
    """In what the detections are not the case's."""
    arrays, found = case.arrays, []
    if len(detections) != len(arrays["pred_boxes"]):
        found.append(f"{len(detections)} detections for {len(arrays['pred_boxes'])}")
    pairs = match_detections(case, detections)
    if len(pairs) < len(arrays["pred_boxes"]):
        found.append(f"{len(pairs)} match")
    expected, made = (list(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    boxes = detections.pred_boxes.tensor[made].numpy()
    apart = np.abs(arrays["pred_boxes"][expected] - boxes).max(initial=0)
    if apart > pixels:
        found.append(f"{apart:.2g} pixels apart")
    if "pred_masks_packed_first20" in arrays:
        masks = detections.pred_masks
        wanted = unpack_masks(arrays["pred_masks_packed_first20"], masks.shape[-1])
        other = sum(int((wanted[i] ^ masks[j]).sum()) for i, j in pairs if i < len(wanted))
        areas = arrays["pred_mask_areas"][expected] - masks[made].sum(dim=(1, 2)).numpy()
        if other > 20 or np.abs(areas).max(initial=0) > 2:
            found.append(f"{other} pixels of masks differ")
    return found


def proposal_differences(case, predictor):
    """In what the proposals are not the case's; FCOS has none."""
    if "proposal_boxes" not in case.arrays:
        return []
    model = predictor.model
    with torch.no_grad():
        images = model.preprocess_image([predictor.prepare(case.image)])
        (proposals,), _ = model.proposal_generator(images, model.backbone(images.tensor))
    expected = Boxes(torch.from_numpy(case.arrays["proposal_boxes"]))
    iou = pairwise_iou(expected, proposals.proposal_boxes)
    far = int((iou.amax(dim=0) < 0.999).sum() + (iou.amax(dim=1) < 0.999).sum())
    if len(expected) == len(proposals) and not far:
        return []
    return [f"{len(proposals)} proposals for {len(expected)}, {far} without a counterpart"]


@pytest.mark.parametrize("name", CASES)
def test_detections_and_proposals(name, plain):
    case, predictor = plain(name)
    assert differences(case, predictor(case.image)["instances"]) == []
    assert proposal_differences(case, predictor) == []


@pytest.mark.parametrize("name", CASES)
def test_optimized(name, plain):
    case, predictor = plain(name)
    optimized = Predictor(predictor.cfg)
    assert differences(case, optimized(case.image)["instances"], pixels=5e-3) == []


def test_base_anchors(plain):
    case, predictor = plain("v1_faster_rcnn_w48")
    generator = predictor.model.proposal_generator.anchor_generator
    for stride, anchors in zip(generator.strides, generator.cell_anchors, strict=True):
        inclusive = torch.tensor(case.spec["base_anchors"][str(stride)])
        torch.testing.assert_close(anchors, inclusive + torch.tensor([0.0, 0, 1, 1]))


# ------------------------------------------------------------------ each convention, turned back


def anchors(offset, rounded):
    def change(model, monkeypatch):
        generator = model.proposal_generator.anchor_generator
        sizes = [[8 * stride] for stride in generator.strides]
        ratios, strides = [[0.5, 1.0, 2.0]], generator.strides
        other = DefaultAnchorGenerator(
            sizes=sizes, aspect_ratios=ratios, strides=strides, offset=offset
        )
        if rounded:
            for cell in other.cell_anchors:
                cell.round_()
        monkeypatch.setitem(model.proposal_generator._modules, "anchor_generator", other)

    return change


def every_level_pooler(model):
    for module in model.modules():
        if isinstance(module, MMDet1ROIPooler):
            yield from module.level_poolers


def shifted_roi_align(model, monkeypatch):
    for level in every_level_pooler(model):
        monkeypatch.setattr(level, "shift", 0.0)


def roi_align_of_at_least_a_pixel(model, monkeypatch):
    for level in every_level_pooler(model):
        monkeypatch.setattr(level, "shift", 0.0)
        monkeypatch.setattr(level.align, "aligned", False)


def adaptive_sampling(model, monkeypatch):
    for level in every_level_pooler(model):
        monkeypatch.setattr(level.align, "sampling_ratio", 0)


def semantic_pooler(model, monkeypatch):
    (level,) = model.roi_heads.semantic_pooler.level_poolers
    monkeypatch.setattr(level, "shift", 0.0)
    monkeypatch.setattr(level.align, "sampling_ratio", 0)


def clipping_to_the_size(model, monkeypatch):
    for module in (rpn, roi_heads):
        monkeypatch.setattr(module, "clip", clip_boxes_to_image)


def nms_on_the_input(model, monkeypatch):
    monkeypatch.setattr(roi_heads, "to_original", lambda boxes, scale: boxes)
    monkeypatch.setattr(roi_heads, "to_network", lambda boxes, scale: boxes)


def two_factors(model, monkeypatch):
    def postprocess(results, batched_inputs):
        return [
            {"instances": detector_postprocess(r, x["height"], x["width"])}
            for r, x in zip(results, batched_inputs, strict=True)
        ]

    monkeypatch.setattr(model.original_images, "postprocess", postprocess)


def masks_by_grid_sample(model, monkeypatch):
    def paste(masks, boxes, size):
        return ROIMasks(masks).to_bitmasks(Boxes(boxes), *size, 0.5).tensor

    monkeypatch.setattr(meta_arch, "paste_masks", paste)


def last_pixel_excluded(model, monkeypatch):
    def finish(boxes, sizes):
        boxes = boxes - torch.tensor([0.0, 0, 1, 1])
        return fcos.finish_boxes(boxes, sizes)

    monkeypatch.setattr(model, "finish_boxes", finish)


def best_pairs(model, monkeypatch):
    monkeypatch.setattr(model, "test_topk_by", "pairs")


TRAITS = {
    "anchors at the corners of cells": (anchors(0.0, True), "v1_cascade_mask_rcnn_w18"),
    "anchors not rounded": (anchors(0.5, False), "v1_cascade_mask_rcnn_w18"),
    "RoIAlign shifted by half a pixel": (shifted_roi_align, "v1_faster_rcnn_w48"),
    "RoIAlign of at least a pixel": (roi_align_of_at_least_a_pixel, "v1_faster_rcnn_w48"),
    "RoIAlign with as many samples as pixels": (adaptive_sampling, "v1_faster_rcnn_w48"),
    "semantic features pooled as in 2.x": (semantic_pooler, "v1_htc_w18"),
    "boxes clipped to the size": (clipping_to_the_size, "v1_htc_w18"),
    "NMS on the network's input": (nms_on_the_input, "v1_htc_w18"),
    "a factor for each axis": (two_factors, "v1_faster_rcnn_w48"),
    "masks by grid_sample": (masks_by_grid_sample, "v1_cascade_mask_rcnn_w18"),
    "FCOS without the last pixel": (last_pixel_excluded, "v1_fcos_w48"),
    "FCOS with the best pairs": (best_pairs, "v1_fcos_w48"),
}


@pytest.mark.parametrize("trait", TRAITS)
def test_turning_a_convention_back_is_noticed(trait, plain, monkeypatch):
    change, name = TRAITS[trait]
    case, predictor = plain(name)
    change(predictor.model, monkeypatch)
    # Proposals first: they need no heads.
    found = proposal_differences(case, predictor)
    assert found or differences(case, predictor(case.image)["instances"])


# ------------------------------------------------------------------ use


@pytest.mark.parametrize("name", ["v1_cascade_mask_rcnn_w18", "v1_fcos_w48"])
def test_a_batch_gives_what_single_images_give(name, plain, monkeypatch):
    case, predictor = plain(name)
    if name != "v1_fcos_w48":  # masks of fewer detections take less time
        for box_predictor in predictor.model.roi_heads.box_predictor:
            monkeypatch.setattr(box_predictor, "test_topk_per_image", 20)
    image = case.image
    # Same padded size, another factor; and the mirror image, which must stay with its own factor.
    images = [image, image[:, ::-1].copy(), cv2.resize(image, (458, 305))]
    together = predictor(images)
    for one, of_batch in zip(images, together, strict=True):
        alone = predictor(one)["instances"]
        of_batch = of_batch["instances"]
        assert of_batch.image_size == one.shape[:2]
        assert len(alone) == len(of_batch) >= 20
        boxes = alone.pred_boxes.tensor
        torch.testing.assert_close(boxes, of_batch.pred_boxes.tensor, atol=1e-2, rtol=0)
        torch.testing.assert_close(alone.scores, of_batch.scores, atol=1e-5, rtol=0)
        if alone.has("pred_masks"):
            assert (alone.pred_masks ^ of_batch.pred_masks).float().mean() < 1e-4
