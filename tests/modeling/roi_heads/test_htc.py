"""Hybrid Task Cascade: interleaving, information flow, the semantic branch in the heads."""

import pytest
import torch
from detectron2.structures import Boxes
from torch.nn import functional as F

from hrnet_d2.modeling import HTCROIHeads
from tests.modeling.roi_heads.test_cascade_rcnn import eval_state, spy
from tests.modeling.roi_heads.tiny_cascade import (
    STAGES,
    tiny_config,
    tiny_input,
    tiny_model,
    training_losses,
)


def flow_by_the_formulas(heads, x):
    """Logits of each stage, every stage from the beginning: H_i(x + relu(res_i(H_{i-1})))."""
    logits = []
    for stage in range(STAGES):
        seen = None
        for head in heads[: stage + 1]:
            seen_now = x if seen is None else x + F.relu(_linear(head.conv_res, seen))
            for i in range(4):
                seen_now = F.relu(_linear(getattr(head, f"mask_fcn{i + 1}"), seen_now))
            seen = seen_now
        upsampled = F.relu(F.conv_transpose2d(seen, head.deconv.weight, head.deconv.bias, stride=2))
        logits.append(_linear(head.predictor, upsampled))
    return logits


def _linear(conv, x):
    return F.conv2d(x, conv.weight, conv.bias, padding=conv.padding)


# ------------------------------------------------------------------ masks


@pytest.mark.parametrize("mask_test", ["avg", "last"])
@torch.no_grad()
def test_masks_at_test(mask_test, monkeypatch):
    cfg = tiny_config("htc")
    cfg.MODEL.HTC.MASK_TEST = mask_test
    model = tiny_model(cfg)
    heads = model.roi_heads
    images, features, proposals = eval_state(model, [tiny_input(0), tiny_input(1)])
    pooled = spy(monkeypatch, heads.mask_pooler, "forward")
    semantic = spy(monkeypatch, heads.semantic_pooler, "forward")
    branch = spy(monkeypatch, heads.semantic_head, "forward")
    runs = [spy(monkeypatch, head, "features") for head in heads.mask_head]
    decoded = [spy(monkeypatch, head, "predict") for head in heads.mask_head]
    detections, _ = heads(images, features, proposals)

    # nothing runs twice: one pooling, one pass through each head, semantic features for each of
    # the three sets of boxes and for the detections
    assert len(pooled) == len(branch) == 1 and [len(r) for r in runs] == [1, 1, 1]
    assert len(semantic) == STAGES + 1
    assert [len(d) for d in decoded] == ([1, 1, 1] if mask_test == "avg" else [0, 0, 1])

    classes = torch.cat([d.pred_classes for d in detections])
    stages = torch.stack(flow_by_the_formulas(list(heads.mask_head), pooled[0] + semantic[-1]))
    probabilities = stages.sigmoid()
    expected = probabilities.mean(0) if mask_test == "avg" else probabilities[-1]
    made = torch.cat([d.pred_masks for d in detections])[:, 0]
    torch.testing.assert_close(made, expected[torch.arange(len(classes)), classes])
    assert (probabilities.mean(0) - probabilities[-1]).abs().max() > 0.01


def test_masks_learn_on_boxes_that_their_stage_refined(monkeypatch):
    model = tiny_model(tiny_config("htc"))
    heads = model.roi_heads
    samples = spy(monkeypatch, heads, "sample_proposals")
    refined = spy(monkeypatch, heads, "_refine")
    labeled = spy(monkeypatch, heads, "_mask_sample")
    training_losses(model, [tiny_input()])
    assert len(samples) == 2 * STAGES and len(refined) == len(labeled) == STAGES
    for stage, ((sample,), (moved,)) in enumerate(zip(labeled, refined, strict=True)):
        pool = {tuple(box) for box in moved.proposal_boxes.tensor.tolist()}
        own = sample.proposal_boxes.tensor[~sample.is_gt].tolist()
        assert own and all(tuple(box) in pool for box in own), stage
        assert sample.is_gt.sum() == 2  # the ground truth is put in once more
    # the next stage starts from the refined boxes, not from the masks' sample
    for (sample,), (moved,) in zip(samples[2::2], refined, strict=False):
        pool = {tuple(box) for box in moved.proposal_boxes.tensor.tolist()}
        own = sample.proposal_boxes.tensor[~sample.is_gt].tolist()
        assert all(tuple(box) in pool for box in own)


def test_gradient_flows_into_earlier_mask_heads():
    for stage in range(STAGES):
        model = tiny_model(tiny_config("htc"))
        training_losses(model, [tiny_input()])[f"loss_mask_stage{stage}"].backward()
        heads = model.roi_heads.mask_head
        through = [head.mask_fcn1.weight.grad is not None for head in heads]
        assert through == [s <= stage for s in range(STAGES)]
        decoded = [head.predictor.weight.grad is not None for head in heads]
        assert decoded == [s == stage for s in range(STAGES)]


def test_first_head_has_no_residual_convolution():
    heads = tiny_model(tiny_config("htc")).roi_heads.mask_head
    assert [hasattr(head, "conv_res") for head in heads] == [False, True, True]


def test_other_mask_heads_are_refused():
    cfg = tiny_config("htc")
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    with pytest.raises(ValueError, match="HTCMaskHead"):
        tiny_model(cfg)


def test_unknown_mask_test_is_refused():
    cfg = tiny_config("htc")
    cfg.MODEL.HTC.MASK_TEST = "best"
    with pytest.raises(ValueError, match="MASK_TEST"):
        tiny_model(cfg)


# ------------------------------------------------------------------ the semantic branch


@torch.no_grad()
def test_semantic_embedding_is_added_to_boxes_and_masks():
    model = tiny_model(tiny_config("htc"))
    heads = model.roi_heads
    _, features, _ = eval_state(model, [tiny_input()])
    features = {**features, "semantic": heads.semantic_head(features)[0]}
    boxes = [Boxes(torch.tensor([[3.0, 4.0, 77.0, 60.0], [0.0, 0.0, 128.0, 96.0]]))]
    maps = [features[name] for name in heads.box_in_features]
    semantic = heads.semantic_pooler([features["semantic"]], boxes)
    assert semantic.shape[-2:] == (14, 14)
    torch.testing.assert_close(
        heads._box_features(features, boxes),
        heads.box_pooler(maps, boxes) + F.avg_pool2d(semantic, 2),
    )
    torch.testing.assert_close(
        heads._mask_features(features, boxes), heads.mask_pooler(maps, boxes) + semantic
    )


def test_without_semantic_branch_nothing_of_it_is_left():
    model = tiny_model(tiny_config("htc_without_semantic"))
    assert not [name for name in model.state_dict() if "semantic" in name]
    losses = training_losses(model, [tiny_input(sem_seg=True)])
    assert not [name for name in losses if "sem" in name]
    with torch.no_grad():
        assert len(model.eval()([tiny_input()])[0]["instances"])


def test_maps_are_padded_and_missing_ones_ignored():
    model = tiny_model(tiny_config("htc")).train()
    inputs = [
        tiny_input(0, size=(90, 120)),
        tiny_input(1, size=(96, 160), sem_seg=False),
    ]
    images = model.preprocess_image(inputs)
    assert images.tensor.shape[-2:] == images.sem_seg.shape[-2:] == (96, 160)
    assert torch.equal(images.sem_seg[0, :90, :120], inputs[0]["sem_seg"])
    assert (images.sem_seg[0, 90:] == 255).all() and (images.sem_seg[0, :, 120:] == 255).all()
    assert (images.sem_seg[1] == 255).all()
    # at test there are no maps to pass on
    assert not hasattr(model.eval().preprocess_image(inputs), "sem_seg")


def test_an_image_without_map_does_not_change_the_semantic_loss():
    model = tiny_model(tiny_config("htc"))
    record = tiny_input(0)
    alone = training_losses(model, [record])["loss_sem_seg"]
    beside = training_losses(model, [record, tiny_input(1, sem_seg=False)])["loss_sem_seg"]
    torch.testing.assert_close(alone, beside)
    none = training_losses(model, [tiny_input(1, sem_seg=False)])["loss_sem_seg"]
    assert none == 0 and none.requires_grad


def test_a_map_of_another_size_is_refused():
    record = tiny_input()
    record["sem_seg"] = record["sem_seg"][:, :-1]
    record["file_name"] = "street.jpg"
    with pytest.raises(ValueError, match=r"street.jpg.*\(96, 127\).*\(96, 128\)"):
        training_losses(tiny_model(tiny_config("htc")), [record])


def test_another_meta_architecture_is_refused_with_the_remedy():
    cfg = tiny_config("htc")
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ValueError, match="HybridTaskCascade.*SEMANTIC_ON"):
        training_losses(tiny_model(cfg), [tiny_input()])


@torch.no_grad()
def test_given_boxes():
    model = tiny_model(tiny_config("htc"))
    (detected,) = model.inference([tiny_input()], do_postprocess=False)
    masks = detected.pred_masks.clone()
    detected.remove("pred_masks")
    (again,) = model.inference([tiny_input()], [detected], do_postprocess=False)
    torch.testing.assert_close(again.pred_masks, masks)


def test_boxes_alone():
    cfg = tiny_config("htc")
    cfg.MODEL.MASK_ON = False
    model = tiny_model(cfg)
    losses = training_losses(model, [tiny_input()])
    assert "loss_sem_seg" in losses and not [name for name in losses if "mask" in name]
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_published_thresholds():
    cfg = tiny_config("htc")
    heads = tiny_model(cfg).roi_heads
    assert all(m.allow_low_quality_matches for m in heads.proposal_matchers)
    assert heads.semantic_head.loss_weight == 0.2


@torch.no_grad()
def test_built_from_objects_as_from_yaml():
    cfg = tiny_config("htc")
    model = tiny_model(cfg)
    arguments = HTCROIHeads.from_config(cfg, model.backbone.output_shape())
    heads = HTCROIHeads(**arguments).eval()
    heads.load_state_dict(model.roi_heads.state_dict())
    images, features, proposals = eval_state(model, [tiny_input()])
    (expected,), _ = model.roi_heads(images, features, proposals)
    (made,), _ = heads(images, features, proposals)
    assert torch.equal(made.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(made.pred_masks, expected.pred_masks)
