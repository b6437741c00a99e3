import torch
from detectron2.structures import BitMasks, Instances

from hrnet_d2.modeling.roi_heads.matched_masks import MatchedMasks


def test_crops_equal_those_of_copied_masks():
    generator = torch.Generator().manual_seed(0)
    masks = BitMasks(torch.rand(3, 40, 50, generator=generator) > 0.5)
    index = torch.tensor([2, 0, 2, 1])
    corner = torch.rand(4, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + torch.rand(4, 2, generator=generator) * 20], dim=1)
    expected = masks[index].crop_and_resize(boxes, 14)
    assert torch.equal(MatchedMasks(masks, index).crop_and_resize(boxes, 14), expected)


def test_is_a_field_of_instances():
    masks = BitMasks(torch.eye(4, dtype=torch.bool).view(4, 2, 2))
    instances = Instances((2, 2))
    instances.gt_masks = MatchedMasks(masks, torch.tensor([3, 1, 0]))
    chosen = instances[torch.tensor([False, True, True])].to("cpu")
    assert len(chosen) == 2 and chosen.gt_masks.device == torch.device("cpu")
    assert torch.equal(chosen.gt_masks.tensor, masks.tensor[[1, 0]])


def test_no_proposals():
    masks = MatchedMasks(BitMasks(torch.ones(1, 4, 4, dtype=torch.bool)), torch.zeros(0).long())
    assert masks.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
