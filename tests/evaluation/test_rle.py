"""Masks in COCO's run-length encoding: the same bytes as pycocotools."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from hrnet_d2.evaluation.rle import encode_masks


def reference(masks: torch.Tensor) -> list[dict]:
    rles = mask_util.encode(np.asfortranarray(masks.numpy().astype(np.uint8).transpose(1, 2, 0)))
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in rles]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (7, 9), (40, 33)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.7, 1.0])
def test_same_bytes_as_pycocotools(size, density):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(8, *size, generator=generator) < density
    assert encode_masks(masks) == reference(masks)
    assert encode_masks(masks.to(torch.uint8)) == reference(masks)


def test_masks_that_touch_the_borders():
    masks = torch.zeros(7, 12, 10, dtype=torch.bool)
    masks[0, :, 3:6] = True  # full columns: one run over several of them
    masks[1, -1, -1] = True
    masks[2, 0, 0] = True
    masks[3, 0] = True
    masks[4, -1] = True
    masks[5, 2:, 4] = masks[5, :3, 5] = True  # a run that goes on in the next column
    assert encode_masks(masks) == reference(masks)


def test_no_masks():
    assert encode_masks(torch.zeros(0, 5, 5, dtype=torch.bool)) == []
