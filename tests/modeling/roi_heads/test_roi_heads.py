import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from hrnet_d2 import add_hrnet_config

SIZE = (64, 64)


def build(*overrides):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "MaxIoUROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 64
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.MASK_ON = True
    cfg.merge_from_list(list(overrides))
    return build_roi_heads(cfg, {"p2": ShapeSpec(channels=4, stride=4)}).train()


def proposals(*boxes):
    instances = Instances(SIZE)
    instances.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.objectness_logits = torch.zeros(len(boxes))
    return instances


def targets(*boxes):
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 3
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    instances.gt_masks = BitMasks(masks)
    return instances


def sample(heads, proposals_, targets_):
    with EventStorage(0):
        return heads.label_and_sample_proposals([proposals_], [targets_])[0]


def test_ground_truth_is_added_to_the_sample_and_marked():
    gt = targets([0, 0, 20, 20], [30, 30, 60, 60])
    result = sample(build(), proposals([0, 0, 20, 18], [40, 0, 60, 10]), gt)
    assert result.is_gt.sum() == 2
    assert result.proposal_boxes.tensor[result.is_gt].sum() == gt.gt_boxes.tensor.sum()
    assert sorted(result.gt_classes.tolist()) == [0, 0, 1, 3]
    assert len(result.gt_masks) == len(result) == 4


def test_ground_truth_is_left_out_when_asked():
    heads = build("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False")
    result = sample(heads, proposals([0, 0, 20, 18]), targets([0, 0, 20, 20]))
    assert not result.is_gt.any() and len(result) == 1


def test_low_quality_matches_consider_only_proposals():
    # The proposal overlaps the first object more, and is the second's best.
    gt = targets([0, 0, 20, 20], [0, 4, 20, 28])
    shared = proposals([0, 0, 20, 22], [0, 0, 20, 20])
    for low_quality, expected in ((False, [0, 0]), (True, [1, 0])):
        heads = build("MODEL.ROI_HEADS.MATCH_LOW_QUALITY", str(low_quality))
        result = sample(heads, shared, gt)
        order = result.proposal_boxes.tensor[~result.is_gt][:, 3].argsort(descending=True)
        assert result.gt_classes[~result.is_gt][order].tolist() == expected


def test_sample_sizes():
    boxes = [[i, i, i + 20, i + 20] for i in range(30)]
    heads = build("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8")
    result = sample(heads, proposals(*boxes), targets([0, 0, 20, 20]))
    assert len(result) == 8 and (result.gt_classes != 3).sum() == 2


@pytest.mark.parametrize("with_proposals", [True, False])
def test_images_without_objects_or_proposals_train(with_proposals):
    heads = build()
    boxes = [[0, 0, 20, 20]] if with_proposals else []
    images = ImageList(torch.zeros(1, 3, *SIZE), [SIZE])
    maps = {"p2": torch.randn(1, 4, 16, 16)}
    with EventStorage(0):
        _, losses = heads(images, maps, [proposals(*boxes)], [targets()])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is not None for p in heads.parameters())
