"""RoIAlign by whole pixels equals torchvision's."""

import pytest
import torch
from detectron2.layers import ROIAlign

from hrnet_d2.layers import roi_align
from hrnet_d2.layers.roi_align import FastROIAlign

ROIS = [
    [0, 3.2, 5.1, 60.7, 41.9],
    [1, 0, 0, 96, 64],
    [0, 10, 10, 10, 10],  # no size
    [1, 40, 50, 20, 30],  # reversed
    [0, -30, -20, 15, 12],  # outside
    [1, 70, 50, 140, 90],
    [0, 200, 200, 260, 240],
    [0, 0.1, 7, 95.9, 8],  # thin
]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("size", [7, (3, 5)])
@pytest.mark.parametrize("scale", [1 / 4, 1.0])
def test_equals_torchvision(aligned, sampling, size, scale):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 6, round(64 * scale), round(96 * scale))
    x = torch.randn(*shape, generator=generator)
    pooler = ROIAlign(size, scale, sampling, aligned)
    rois = torch.tensor(ROIS)
    with torch.no_grad():
        made = FastROIAlign(pooler)(x.to(memory_format=torch.channels_last), rois)
    torch.testing.assert_close(made, pooler(x, rois), rtol=0, atol=2e-6)


def test_many_random_regions():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 25, 38, generator=generator)
    corners = torch.rand(300, 4, generator=generator) * 800
    corners = torch.cat(
        [corners[:, :2].minimum(corners[:, 2:]), corners[:, :2].maximum(corners[:, 2:])], 1
    )
    rois = torch.cat([torch.randint(0, 2, (300, 1), generator=generator).float(), corners], 1)
    pooler = ROIAlign(7, 1 / 32, 0, True)
    with torch.no_grad():
        made = FastROIAlign(pooler)(x, rois)
    torch.testing.assert_close(made, pooler(x, rois), rtol=0, atol=5e-6)


def test_large_regions_are_pooled_in_parts(monkeypatch):
    """A thousand of an image's size, as HTC's semantic branch may pool, would take gigabytes."""
    sizes = []
    entries = FastROIAlign._entries

    def measured(self, *args):
        made = entries(self, *args)
        sizes.append(len(made.pixel))
        return made

    monkeypatch.setattr(FastROIAlign, "_entries", measured)
    pooler = FastROIAlign(ROIAlign((4, 5), 0.5, 0))
    x, rois = torch.randn(2, 3, 32, 48, requires_grad=True), torch.tensor(ROIS * 20)
    whole = pooler(x, rois)
    (expected,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr(roi_align, "MOST_ENTRIES", 20_000)
    divided = pooler(x, rois)
    assert len(sizes) > 3 and max(sizes[1:]) <= 20_000 and sum(sizes[1:]) == sizes[0]
    assert torch.equal(divided, whole)
    (made,) = torch.autograd.grad(divided.square().sum(), x)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-4)


def test_no_regions_and_gradients():
    pooler = FastROIAlign(ROIAlign(7, 1.0, 0))
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    with torch.no_grad():
        assert pooler(x, torch.zeros(0, 5)).shape == (0, 4, 7, 7)
    pooler(x, torch.tensor([[0, 1.0, 1, 6, 6]])).sum().backward()
    assert x.grad.abs().sum() > 0


def test_sixteen_bits_are_summed_in_32():
    torch.manual_seed(0)
    pooler = ROIAlign(7, 0.25, 0)
    x, rois = torch.randn(2, 6, 16, 24), torch.tensor(ROIS)
    made = FastROIAlign(pooler)(x.bfloat16(), rois)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, FastROIAlign(pooler)(x.bfloat16().float(), rois).bfloat16())
