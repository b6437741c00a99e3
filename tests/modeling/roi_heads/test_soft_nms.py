"""Soft-NMS against the algorithm as it is written down, one box at a time."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from torchvision.ops import box_iou

from hrnet_d2 import add_hrnet_config
from hrnet_d2.modeling.roi_heads.detections import (
    SuppressionRule,
    build_detection_rule,
    detectron2_rule,
    hard_nms,
)
from hrnet_d2.modeling.roi_heads.soft_nms import soft_nms


def boxes_of(count, seed, span=60):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * span
    sizes = 5 + torch.rand(count, 2, generator=generator) * 40
    return torch.cat([corners, corners + sizes], dim=1)


def by_the_book(boxes, scores, classes, iou_thresh, min_score):
    """(index, score) of what is selected, class by class, sorted by descending score."""
    iou = box_iou(boxes.double(), boxes.double()).numpy()
    selected = []
    for c in classes.unique().tolist():
        left = {i: float(scores[i]) for i in range(len(boxes)) if classes[i] == c}
        while left:
            best = max(left, key=left.get)
            selected.append((best, left.pop(best)))
            for i in list(left):
                if iou[best, i] > iou_thresh:
                    left[i] *= 1 - iou[best, i]
                if iou[best, i] > 0 and left[i] < min_score:
                    del left[i]
    return sorted(selected, key=lambda pair: -pair[1])


@pytest.mark.parametrize("topk", [-1, 0, 1, 7, 1000])
@pytest.mark.parametrize("count, classes", [(1, 1), (60, 1), (150, 4), (40, 30)])
def test_equals_the_definition(count, classes, topk):
    boxes = boxes_of(count, seed=count)
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(count, generator=generator) * 0.99 + 0.01
    labels = torch.randint(classes, (count,), generator=generator)
    expected = by_the_book(boxes, scores, labels, 0.5, 0.2)
    # Sparse labels and no reduction would make the comparison empty.
    assert count == 1 or classes == 30 or any(s != float(scores[i]) for i, s in expected)
    expected = expected if topk < 0 else expected[:topk]
    index, made = soft_nms(boxes, scores, labels, 0.5, 0.2, topk)
    assert index.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(made.numpy(), [s for _, s in expected], rtol=1e-5)


def test_no_boxes():
    empty = torch.zeros(0)
    index, scores = soft_nms(torch.zeros(0, 4), empty, empty.long(), 0.5, 0.001, 100)
    assert len(index) == len(scores) == 0


def rule(*options):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_list(list(options))
    return build_detection_rule(cfg)


def predictions(per_class, seed=0):
    """Boxes and probabilities of two images."""
    classes = 3 if per_class else 1
    generator = torch.Generator().manual_seed(seed)
    boxes = [
        torch.cat([boxes_of(n, seed + c, span=25) for c in range(classes)], dim=1) for n in (50, 20)
    ]
    scores = [torch.rand(len(b), 4, generator=generator).softmax(dim=1) for b in boxes]
    boxes[0][3, 0], scores[1][2, 1] = torch.nan, torch.inf
    return boxes, scores, [(90, 120), (80, 100)]


@pytest.mark.parametrize("per_class", [True, False])
def test_the_rule_with_hard_nms_is_detectron2s(per_class):
    arguments = (*predictions(per_class), 0.2, 0.5, 20)
    expected, _ = fast_rcnn_inference(*arguments)
    for a, b in zip(expected, SuppressionRule(hard_nms)(*arguments), strict=True):
        assert a.image_size == b.image_size and len(a) > 3
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor)
        torch.testing.assert_close(a.scores, b.scores)
        assert torch.equal(a.pred_classes, b.pred_classes)


def test_off_by_default():
    assert rule() is detectron2_rule


def test_soft_nms_by_key_keeps_what_hard_nms_removes():
    arguments = (*predictions(True), 0.2, 0.5, -1)
    hard = rule()(*arguments)
    soft = rule("MODEL.ROI_HEADS.SOFT_NMS.ENABLED", "True")(*arguments)
    strict = rule(
        "MODEL.ROI_HEADS.SOFT_NMS.ENABLED", "True", "MODEL.ROI_HEADS.SOFT_NMS.MIN_SCORE", "0.1"
    )(*arguments)
    assert len(hard[0]) < len(strict[0]) < len(soft[0])
    assert strict[0].scores.min() >= 0.1
    for instances in soft:
        assert (instances.scores.diff() <= 0).all()


def test_identical_boxes_of_a_class_that_is_used_up():
    """Boxes that were clipped to the whole image are identical; one of them stays."""
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 3 + [[20.0 * i, 0, 20 * i + 9, 9] for i in range(5)])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    classes = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    keep, kept_scores = soft_nms(boxes, scores, classes, 0.5, 0.05)
    assert keep.tolist() == [0, 3, 4, 5, 6, 7]
    assert torch.equal(kept_scores, scores[keep])
