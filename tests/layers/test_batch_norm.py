"""Batch normalization for training on the CPU equals PyTorch's, with gradients and statistics."""

import copy

import pytest
import torch
from torch import nn

from hrnet_d2.layers.batch_norm import SMALLEST_MAPS, CPUBatchNorm2d
from hrnet_d2.layers.cpu_training import use_cpu_layers

LARGE = (2, 18, 64, 80)
LAST, FIRST = torch.channels_last, torch.contiguous_format


def _layers(channels: int, **kwargs) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(channels, **kwargs)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
        layer.running_mean.normal_()
    model = use_cpu_layers(nn.Sequential(copy.deepcopy(layer)))
    assert type(model[0]) is CPUBatchNorm2d
    return layer, model[0]


def _all(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients of input, weight and bias, and what the layer holds afterwards."""
    x = x.detach().requires_grad_()
    y = layer(x)
    torch.manual_seed(1)
    grad = torch.randn(y.shape).to(y.dtype)
    # As the ReLU that follows does.
    torch.relu_(y * 1).backward(grad)
    return [y, x.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()]


@pytest.mark.parametrize("shape", [LARGE, (1, 64, 96, 64), (2, 36, 41, 56)], ids=str)
@pytest.mark.parametrize("momentum", [0.1, 0.01])
def test_as_exact_as_pytorch_in_double(shape: tuple[int, ...], momentum: float) -> None:
    layer, fast = _layers(shape[1], momentum=momentum, eps=1e-4)
    x = torch.randn(shape).mul_(3).add_(5).contiguous(memory_format=LAST)
    assert x.numel() >= SMALLEST_MAPS
    found = _all(fast, x)
    assert found[0].grad_fn.name() == "_NormalizationBackward"
    assert found[0].is_contiguous(memory_format=LAST) and found[1].is_contiguous(memory_format=LAST)
    for expected, value in zip(_all(layer.double(), x.double()), found, strict=True):
        assert (expected - value).abs().max() <= 2e-6 * expected.abs().max()


def test_a_gradient_in_the_other_format_and_an_overwritten_result() -> None:
    layer, fast = _layers(18)
    x = torch.randn(LARGE).contiguous(memory_format=LAST)
    torch.manual_seed(1)
    grad = torch.randn(LARGE)
    of_x = []
    for module in (layer, fast):
        leaf = x.detach().requires_grad_()
        torch.relu_(module(leaf)).backward(grad)
        of_x.append(leaf.grad)
    torch.testing.assert_close(*of_x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "memory_format", "kwargs"),
    [
        (LARGE, FIRST, {}),
        ((2, 18, 8, 8), LAST, {}),
        ((1, 18, 81, 95), LAST, {}),  # a number of pixels that does not divide by 8
        (LARGE, LAST, {"momentum": None}),
        (LARGE, LAST, {"eval": True}),
        (LARGE, LAST, {"double": True}),
    ],
    ids=str,
)
def test_elsewhere_pytorch_computes(shape, memory_format, kwargs) -> None:
    kwargs = dict(kwargs)
    held, double = kwargs.pop("eval", False), kwargs.pop("double", False)
    layer, fast = _layers(18, **kwargs)
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    for module in (layer, fast):
        module.train(not held).to(torch.float64 if double else torch.float32)
    x = x.to(layer.weight.dtype)
    for expected, found in zip(_all(layer, x), _all(fast, x), strict=True):
        assert torch.equal(expected, found)


def test_without_gradients_and_under_autocast_pytorch_computes() -> None:
    layer, fast = _layers(18)
    x = torch.randn(LARGE).contiguous(memory_format=LAST)
    with torch.no_grad():
        assert torch.equal(layer(x), fast(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), fast(x))


def test_nothing_to_learn_and_recomputation_with_momentum_0() -> None:
    layer, fast = _layers(18)
    for module in (layer, fast):
        module.requires_grad_(False)
        module.momentum, module.num_batches_tracked = 0.0, None
    before = fast.running_mean.clone()
    x = torch.randn(LARGE).contiguous(memory_format=LAST)
    results = []
    for module in (layer, fast):
        leaf = x.detach().requires_grad_()
        module(leaf).sum().backward()
        results.append(module(x))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert torch.equal(before, fast.running_mean)
    assert fast.weight.grad is None
