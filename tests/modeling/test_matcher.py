import pytest
import torch
from detectron2.modeling.matcher import Matcher

from hrnet_d2.modeling import MaxIoUMatcher


def assign_plainly(iou, low, high, min_pos_iou):
    """The assigner's definition, one box and one object at a time; -1 ignored, 0 negative."""
    num_gt, num_boxes = iou.shape
    matches, labels = [0] * num_boxes, [-1] * num_boxes
    for j in range(num_boxes):
        best = max(range(num_gt), key=lambda i: float(iou[i, j]))
        matches[j] = best
        if iou[best, j] >= high:
            labels[j] = 1
        elif iou[best, j] < low:
            labels[j] = 0
    for i in range(num_gt):
        best = float(iou[i].max())
        if best >= min_pos_iou:
            for j in range(num_boxes):
                if float(iou[i, j]) == best:
                    matches[j], labels[j] = i, 1
    return matches, labels


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values make ties between objects and between boxes common.
    iou = torch.randint(0, 10, (5, 30), generator=generator) / 10
    matches, labels = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], True, min_pos_iou=0.3)(iou)
    expected_matches, expected_labels = assign_plainly(iou, 0.3, 0.7, 0.3)
    assert labels.tolist() == expected_labels
    positive = labels == 1
    assert matches[positive].tolist() == [
        m for m, label in zip(expected_matches, expected_labels, strict=True) if label == 1
    ]
    assert labels.dtype == torch.int8 and matches.dtype == torch.int64


def test_without_low_quality_matches_it_is_detectron2s():
    iou = torch.rand(4, 50, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(
        MaxIoUMatcher([0.5], [0, 1])(iou), Matcher([0.5], [0, 1])(iou), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_an_object_takes_its_best_box_from_another():
    iou = torch.tensor([[0.6, 0.8], [0.1, 0.75]])
    matches, labels = MaxIoUMatcher([0.5], [0, 1], True, min_pos_iou=0.5)(iou)
    assert matches.tolist() == [0, 1] and labels.tolist() == [1, 1]
    matches, _ = Matcher([0.5], [0, 1], True)(iou)
    assert matches.tolist() == [0, 0]


def test_an_object_below_the_least_iou_takes_nothing():
    iou = torch.tensor([[0.29, 0.1]])
    assert MaxIoUMatcher([0.3, 0.7], [0, -1, 1], True, 0.3)(iou)[1].tolist() == [0, 0]
    assert Matcher([0.3, 0.7], [0, -1, 1], True)(iou)[1].tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_match(shape):
    matches, labels = MaxIoUMatcher([0.5], [0, 1], True, 0.5)(torch.zeros(shape))
    assert labels.tolist() == matches.tolist() == [0] * shape[1]
