"""Large linear layers by oneDNN."""

import copy
import pickle

import pytest
import torch
from torch import nn

from hrnet_d2.inference import fused_linear
from hrnet_d2.inference.fused_linear import FusedLinear, is_large
from hrnet_d2.layers.onednn import has_onednn

pytestmark = pytest.mark.skipif(not has_onednn(), reason="PyTorch without oneDNN")


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(512, 640)


@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
def test_equals_the_layer(layer: nn.Linear, rows: int) -> None:
    fused, x = FusedLinear(layer), torch.randn(rows, 512)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), layer(x), rtol=1e-5, atol=1e-5)


def test_without_bias(layer: nn.Linear) -> None:
    layer.bias = None
    fused, x = FusedLinear(layer), torch.randn(3, 512)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("faster", [True, False])
def test_small_layers_and_subclasses_stay(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    monkeypatch.setattr(fused_linear, "multiplies_faster", lambda: faster)

    class Other(nn.Linear):
        pass

    assert is_large(nn.Linear(512, 512)) == faster
    assert not is_large(nn.Linear(8, 512))
    assert not is_large(Other(512, 512))


def test_changed_weights_are_laid_out_again(layer: nn.Linear) -> None:
    fused, x = FusedLinear(layer), torch.randn(3, 512)
    with torch.no_grad():
        fused(x)
        layer.weight.mul_(2)  # the memory is shared
        torch.testing.assert_close(fused(x), layer(x), rtol=1e-5, atol=1e-5)


def test_gradients_and_autocast_take_the_layers_own_way(layer: nn.Linear) -> None:
    fused, x = FusedLinear(layer), torch.randn(3, 512, requires_grad=True)
    fused(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fused(x).dtype == torch.bfloat16


def test_copies_and_pickles_after_use(layer: nn.Linear) -> None:
    fused, x = FusedLinear(layer), torch.randn(3, 512)
    with torch.no_grad():
        expected = fused(x)
        for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
            assert torch.equal(other(x), expected)
