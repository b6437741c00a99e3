"""Winograd's 3x3 convolution: any size, to rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hrnet_d2.layers import winograd
from hrnet_d2.layers.onednn import has_onednn
from hrnet_d2.layers.winograd import (
    is_profitable,
    pack_weight,
    transform_weight,
    winograd_conv3x3,
    winograd_weight_gradient,
)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 4), (5, 9), (14, 14), (33, 20)])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("by_onednn", [False, True])
def test_equals_direct_convolution(size, n, relu, by_onednn, monkeypatch):
    monkeypatch.setattr(winograd, "multiplies_faster", lambda: by_onednn and has_onednn())
    monkeypatch.setattr(winograd, "CHUNK_ELEMENTS", 100)  # several chunks of rows or images
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, *size, generator=generator)
    weight = torch.randn(5, 6, 3, 3, generator=generator) / 7
    bias = torch.randn(5, generator=generator)
    for b in (bias, None):
        expected = F.conv2d(x, weight, b, padding=1)
        expected = expected.relu() if relu else expected
        for transformed in (transform_weight(weight), pack_weight(weight)):
            made = winograd_conv3x3(x, transformed, b, relu)
            torch.testing.assert_close(made, expected, rtol=0, atol=2e-5)
            assert made.is_contiguous(memory_format=torch.channels_last)


def test_exact_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 9, 13, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, 8, 3, 3, generator=generator, dtype=torch.float64)
    made = winograd_conv3x3(x, transform_weight(weight), None)
    torch.testing.assert_close(made, F.conv2d(x, weight, padding=1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 4), (5, 9), (33, 20)])
@pytest.mark.parametrize("chunk", [100, 80_000])
def test_weight_gradient_is_exact_in_double_precision(size, chunk, monkeypatch):
    monkeypatch.setattr(winograd, "CHUNK_ELEMENTS", chunk)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, *size, generator=generator, dtype=torch.float64)
    grad = torch.randn(3, 5, *size, generator=generator, dtype=torch.float64)
    weight = torch.zeros(5, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    F.conv2d(x, weight, padding=1).backward(grad)
    made = winograd_weight_gradient(x, grad)
    torch.testing.assert_close(made, weight.grad, rtol=0, atol=1e-11)


def test_chunks_are_of_equal_size(monkeypatch):
    monkeypatch.setattr(winograd, "CHUNK_ELEMENTS", 15 * 20 * 256)
    sizes = [chunk.rows for chunk in winograd._chunks(2, 16, 20, 256)]
    assert sizes == [8, 8, 8, 8]


def test_only_for_what_it_computes():
    assert is_profitable(nn.Conv2d(256, 256, 3, padding=1))
    for kwargs in [
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
        {"kernel_size": 5},
    ]:
        assert not is_profitable(nn.Conv2d(256, 256, **{"kernel_size": 3, "padding": 1, **kwargs}))
    assert not is_profitable(nn.Conv2d(18, 18, 3, padding=1))
