"""Cascade R-CNN and Cascade Mask R-CNN: each departure from Detectron2, and rare inputs."""

import warnings

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.modeling.roi_heads.tiny_cascade import (
    FAMILIES,
    NUM_CLASSES,
    STAGES,
    tiny_config,
    tiny_input,
    tiny_model,
    training_losses,
)


def eval_state(model, inputs):
    """Features and proposals of the inputs, at test."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    return images, features, model.proposal_generator(images, features)[0]


def spy(monkeypatch, owner, name):
    """Record the results of a method of ``owner``."""
    results, method = [], getattr(owner, name)

    def wrapper(*args, **kwargs):
        results.append(method(*args, **kwargs))
        return results[-1]

    monkeypatch.setattr(owner, name, wrapper)
    return results


# ------------------------------------------------------------------ scores and boxes at test


@pytest.mark.parametrize("fusion", ["logits", "probabilities"])
@torch.no_grad()
def test_scores_are_fused_over_stages(fusion):
    cfg = tiny_config("cascade")
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCORE_FUSION = fusion
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
    cfg.TEST.DETECTIONS_PER_IMAGE = -1
    model = tiny_model(cfg)
    heads = model.roi_heads
    images, features, proposals = eval_state(model, [tiny_input()])
    maps = [features[name] for name in heads.box_in_features]
    boxes, logits = proposals[0].proposal_boxes, []
    for stage in range(STAGES):
        x = heads.box_head[stage](heads.box_pooler(maps, [boxes]))
        predictor = heads.box_predictor[stage]
        logits.append(predictor.cls_score(x))
        boxes = Boxes(
            predictor.box2box_transform.apply_deltas(predictor.bbox_pred(x), boxes.tensor)
        )
        boxes.clip(images.image_sizes[0])
    if fusion == "logits":
        expected = torch.stack(logits).mean(0).softmax(1)
    else:
        expected = torch.stack(logits).softmax(2).mean(0)

    (detections,), _ = heads(images, features, proposals)
    order = detections.scores.argsort(descending=True)
    scores, indices = expected[:, :-1].flatten().sort(descending=True)
    torch.testing.assert_close(detections.scores[order], scores)
    torch.testing.assert_close(
        detections.pred_boxes.tensor[order],
        boxes.tensor[indices // NUM_CLASSES],
        rtol=0,
        atol=1e-3,
    )


def test_third_stage_has_its_own_deltas():
    heads = tiny_model(tiny_config("cascade")).roi_heads
    weights = heads.box_predictor[2].box2box_transform.weights
    assert [1 / w for w in weights] == pytest.approx([0.033, 0.033, 0.067, 0.067])


# ------------------------------------------------------------------ stock Detectron2, key by key


def stock_keys(cfg):
    node = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    node.STAGE_LOSS_WEIGHTS = [1.0, 1.0, 1.0]
    node.SCORE_FUSION = "probabilities"
    node.RESAMPLE = False
    node.FEATURE_GRADIENT_SCALE = 1 / 3
    cfg.MODEL.ROI_HEADS.MATCH_LOW_QUALITY = False
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 10**6  # no chance


def test_stock_keys_give_detectron2():
    cfg = tiny_config("cascade")
    stock_keys(cfg)
    ours = tiny_model(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    stock = tiny_model(cfg)
    assert type(stock.roi_heads) is CascadeROIHeads
    stock.load_state_dict(ours.state_dict())
    inputs = [tiny_input(0), tiny_input(1, boxes=())]
    with torch.no_grad():
        for a, b in zip(ours(inputs), stock(inputs), strict=True):
            a, b = a["instances"], b["instances"]
            torch.testing.assert_close(a.scores, b.scores)
            torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor)
            assert torch.equal(a.pred_classes, b.pred_classes)

    losses = [training_losses(model, inputs) for model in (ours, stock)]
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name])
    for each in losses:
        sum(each.values()).backward()
    theirs = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, msg=name)


@pytest.mark.parametrize(
    "key, value",
    [
        ("STAGE_LOSS_WEIGHTS", [1.0, 1.0, 1.0]),
        ("RESAMPLE", False),
        ("FEATURE_GRADIENT_SCALE", 1 / 3),
    ],
)
def test_each_key_matters_in_training(key, value):
    gradients = []
    for change in (False, True):
        cfg = tiny_config("cascade")
        if change:
            cfg.MODEL.ROI_BOX_CASCADE_HEAD[key] = value
        model = tiny_model(cfg)
        sum(training_losses(model, [tiny_input()]).values()).backward()
        gradients.append(model.backbone.conv2.weight.grad)
    assert not torch.allclose(*gradients)


def test_stage_loss_weights_scale_every_loss_of_a_stage():
    losses = []
    for weights in ([1.0, 0.5, 0.25], [1.0, 1.0, 1.0]):
        cfg = tiny_config("cascade_mask")
        cfg.MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS = weights
        losses.append(training_losses(tiny_model(cfg), [tiny_input()]))
    for stage, weight in enumerate([1.0, 0.5, 0.25]):
        for name in ("loss_cls", "loss_box_reg", "loss_mask"):
            key = f"{name}_stage{stage}"
            torch.testing.assert_close(losses[0][key], losses[1][key] * weight)


# ------------------------------------------------------------------ sampling in training


def test_every_stage_samples_again_with_the_ground_truth(monkeypatch):
    model = tiny_model(tiny_config("cascade"))
    samples = spy(monkeypatch, model.roi_heads, "sample_proposals")
    refined = spy(monkeypatch, model.roi_heads, "_refine")
    record = tiny_input()
    training_losses(model, [record])
    assert len(samples) == STAGES
    gt = record["instances"].gt_boxes.tensor
    for (sample,), (moved,) in zip(samples, refined, strict=True):
        assert torch.equal(sample.proposal_boxes.tensor[sample.is_gt].sort(0)[0], gt.sort(0)[0])
        # each object that was added is labeled as itself
        assert torch.equal(
            sample.gt_boxes.tensor[sample.is_gt], sample.proposal_boxes.tensor[sample.is_gt]
        )
        assert len(moved) == len(sample) - len(gt)
    # a stage samples from the boxes that the stage before refined
    for (sample,), (moved,) in zip(samples[1:], refined, strict=False):
        pool = {tuple(box) for box in moved.proposal_boxes.tensor.tolist()}
        own = sample.proposal_boxes.tensor[~sample.is_gt].tolist()
        assert own and all(tuple(box) in pool for box in own)


def test_low_quality_matches_follow_the_key():
    cfg = tiny_config("cascade")
    for on in (False, True):
        cfg.MODEL.ROI_HEADS.MATCH_LOW_QUALITY = on
        matchers = tiny_model(cfg).roi_heads.proposal_matchers
        assert [m.allow_low_quality_matches for m in matchers] == [on] * STAGES
        assert [m.min_pos_iou for m in matchers] == [0.5, 0.6, 0.7]


# ------------------------------------------------------------------ masks


@torch.no_grad()
def test_masks_are_the_mean_of_the_stages_probabilities(monkeypatch):
    model = tiny_model(tiny_config("cascade_mask"))
    heads = model.roi_heads
    images, features, proposals = eval_state(model, [tiny_input(0), tiny_input(1)])
    pooled = spy(monkeypatch, heads.mask_pooler, "forward")
    detections, _ = heads(images, features, proposals)
    assert len(pooled) == 1
    classes = torch.cat([d.pred_classes for d in detections])
    probabilities = torch.stack([head.layers(pooled[0]).sigmoid() for head in heads.mask_head])
    expected = probabilities.mean(0)[torch.arange(len(classes)), classes]
    made = torch.cat([d.pred_masks for d in detections])[:, 0]
    torch.testing.assert_close(made, expected)
    assert (probabilities[0] - probabilities[2]).abs().max() > 0.01


def test_each_mask_head_learns_from_its_own_stage():
    for stage in range(STAGES):
        model = tiny_model(tiny_config("cascade_mask"))
        training_losses(model, [tiny_input()])[f"loss_mask_stage{stage}"].backward()
        learns = [head.predictor.weight.grad is not None for head in model.roi_heads.mask_head]
        assert learns == [s == stage for s in range(STAGES)]


# ------------------------------------------------------------------ rare inputs

CORNERS = {
    "plain": {},
    "an image without objects": {"boxes": [None, ()]},
    "no object in the batch": {"boxes": [(), ()]},
    "no proposals": {"proposals": 0},
    "no proposals and no objects": {"boxes": [(), ()], "proposals": 0},
    "no positives": {"append_gt": False, "proposals": 0, "junk": True},
    "a single class": {"classes": 1},
    "stock sampling": {"resample": False, "boxes": [None, ()]},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("corner", CORNERS)
def test_every_parameter_gets_a_gradient(family, corner, monkeypatch):
    corner = CORNERS[corner]
    cfg = tiny_config(family)
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES = corner.get("classes", NUM_CLASSES)
    cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = corner.get("append_gt", True)
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.RESAMPLE = corner.get("resample", True)
    model = tiny_model(cfg)
    inputs = []
    for i, boxes in enumerate(corner.get("boxes", [None, None])):
        arguments = {} if boxes is None else {"boxes": boxes}
        # the second image has no semantic map
        inputs.append(tiny_input(i, sem_seg=i == 0, num_classes=classes, **arguments))
    if "proposals" in corner:
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]) if "junk" in corner else torch.zeros(0, 4)
        rpn = model.proposal_generator
        monkeypatch.setattr(
            rpn,
            "predict_proposals",
            lambda *args: [Instances((96, 128), proposal_boxes=Boxes(boxes)) for _ in inputs],
        )
    losses = training_losses(model, inputs)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    if "junk" in corner:
        for stage in range(STAGES):
            assert losses[f"loss_box_reg_stage{stage}"] == 0
            assert family == "cascade" or losses[f"loss_mask_stage{stage}"] == 0


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_batch_gives_what_single_images_give(family):
    model = tiny_model(tiny_config(family))
    inputs = [tiny_input(0), tiny_input(1), tiny_input(2)]
    for together, record in zip(model(inputs), inputs, strict=True):
        alone = model([record])[0]["instances"]
        together = together["instances"]
        assert len(alone) == 10
        torch.testing.assert_close(together.scores, alone.scores)
        torch.testing.assert_close(together.pred_boxes.tensor, alone.pred_boxes.tensor)
        if family != "cascade":
            assert (together.pred_masks == alone.pred_masks).float().mean() > 0.999


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proposals", [0, 1])
@torch.no_grad()
def test_no_detections(family, proposals, monkeypatch):
    cfg = tiny_config(family)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    model = tiny_model(cfg)
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0]])[:proposals]
    monkeypatch.setattr(
        model.proposal_generator,
        "predict_proposals",
        lambda *args: [Instances((96, 128), proposal_boxes=Boxes(boxes)) for _ in range(2)],
    )
    for output in model([tiny_input(0), tiny_input(1)]):
        assert len(output["instances"]) == 0
        assert family == "cascade" or output["instances"].pred_masks.shape == (0, 96, 128)


@torch.no_grad()
def test_infinite_features_give_no_detections():
    model = tiny_model(tiny_config("htc"))
    for level, value in enumerate(["nan", "inf", "nan", "inf", "nan"], start=2):
        getattr(model.backbone, f"conv{level}").bias.fill_(float(value))
    assert len(model([tiny_input()])[0]["instances"]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family):
    model = tiny_model(tiny_config(family))
    inputs = [tiny_input(0), tiny_input(1, boxes=(), sem_seg=False)]
    exact = training_losses(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = training_losses(model, inputs)
        with torch.no_grad():
            output = model.eval()(inputs)[0]["instances"]
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert losses["loss_cls_stage0"].item() == pytest.approx(
        exact["loss_cls_stage0"].item(), rel=0.1
    )
    assert len(output) == 10 and output.scores.dtype == torch.float32


@pytest.mark.parametrize("family", ["cascade_mask", "htc"])
@torch.no_grad()
def test_a_traced_model_works_for_other_sizes(family):
    model = tiny_model(tiny_config(family))
    first, other = tiny_input(0)["image"], tiny_input(1, size=(64, 160))["image"]

    def inference(model, inputs):
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    adapter = TracingAdapter(model, [{"image": first}], inference).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(adapter, (first,), check_trace=False)
    (expected,) = model.inference([{"image": other}], do_postprocess=False)
    made = adapter.outputs_schema(traced(other))[0]["instances"]
    torch.testing.assert_close(made.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(made.scores, expected.scores)
    torch.testing.assert_close(made.pred_masks, expected.pred_masks)


def test_losses_are_logged_by_stage():
    model = tiny_model(tiny_config("cascade_mask")).train()
    with EventStorage(0) as storage:
        model([tiny_input()])
    names = storage.latest().keys()
    for stage in range(STAGES):
        assert f"stage{stage}/roi_head/num_fg_samples" in names
        assert f"stage{stage}/fast_rcnn/cls_accuracy" in names
        assert f"stage{stage}/mask_rcnn/accuracy" in names


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("STAGE_LOSS_WEIGHTS", [1.0, 0.5], "STAGE_LOSS_WEIGHTS"),
        ("SCORE_FUSION", "mean", "score_fusion must be one of"),
    ],
)
def test_bad_values_are_refused(key, value, words):
    cfg = tiny_config("cascade")
    cfg.MODEL.ROI_BOX_CASCADE_HEAD[key] = value
    with pytest.raises(ValueError, match=words):
        tiny_model(cfg)
