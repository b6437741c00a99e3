"""Layers for training on the CPU equal PyTorch's, with their gradients."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, ROIAlign
from torch import nn

from hrnet_d2.layers import cpu_training
from hrnet_d2.layers.cpu_training import CPUConv2d, CPULinear, use_cpu_layers
from hrnet_d2.layers.onednn import has_onednn
from hrnet_d2.layers.roi_align import FastROIAlign
from hrnet_d2.modeling import HRNet

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="PyTorch without oneDNN")


@pytest.fixture(autouse=True)
def products_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is faster on this machine."""
    monkeypatch.setattr(cpu_training, "multiplies_faster", has_onednn)


def _compare(layer: nn.Module, fast: nn.Module, x: torch.Tensor, tolerance: float) -> None:
    """Outputs and all gradients, relative to the largest value of each."""
    results = []
    for module in (layer, fast):
        inputs = x.clone().requires_grad_()
        y = module(inputs)
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape))
        results.append([y, inputs.grad, *(p.grad for p in module.parameters())])
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() <= tolerance * expected.abs().max()


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(512, 640, bias=bias)
    fast = use_cpu_layers(copy.deepcopy(layer))
    assert type(fast) is CPULinear
    _compare(layer, fast, torch.randn(37, 512), 1e-5)


@needs_onednn
@pytest.mark.parametrize("shape", [(2, 48, 45), (1, 64, 71), (1, 8, 9)], ids=str)
@pytest.mark.parametrize("frozen", [False, True])
def test_convolution(shape: tuple[int, int, int], frozen: bool) -> None:
    torch.manual_seed(0)
    layer = Conv2d(
        128,
        96,
        3,
        padding=1,
        norm=nn.BatchNorm2d(96).eval(),
        activation=nn.functional.relu,
        bias=True,
    )
    fast = use_cpu_layers(copy.deepcopy(layer))
    assert type(fast) is CPUConv2d
    if frozen:
        layer.weight.requires_grad_(False)
        fast.weight.requires_grad_(False)
        for module in (layer, fast):
            module.weight.grad = torch.zeros_like(module.weight)
    n, height, width = shape
    _compare(layer, fast, torch.randn(n, 128, height, width), 5e-5)


@needs_onednn
def test_an_image_without_a_batch():
    layer = Conv2d(128, 96, 3, padding=1)
    fast = use_cpu_layers(copy.deepcopy(layer))
    x = torch.randn(128, 48, 45)
    torch.testing.assert_close(fast(x), layer(x))


def test_a_pooler_of_ones_own_stays():
    class Own(ROIAlign):
        def forward(self, x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x, rois)

    model = nn.Sequential(Own(7, 0.25, 0, True))
    assert type(use_cpu_layers(model)[0]) is Own


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align(aligned: bool) -> None:
    torch.manual_seed(0)
    pooler = ROIAlign(7, 0.25, 0, aligned)
    corners = torch.rand(60, 4) * 100 - 10
    rois = torch.cat([torch.randint(0, 2, (60, 1)).float(), corners.sort(1).values], 1)

    class Pool(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x, rois)

    fast = use_cpu_layers(Pool(pooler))
    assert isinstance(fast.layer, FastROIAlign)
    _compare(Pool(pooler), fast, torch.randn(2, 8, 24, 20), 1e-5)


@needs_onednn
def test_other_types_and_inference_compute_as_before() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(512, 640)
    fast = use_cpu_layers(copy.deepcopy(layer))
    x = torch.randn(4, 512)
    with torch.no_grad():
        assert torch.equal(layer(x), fast(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), fast(x))
    assert torch.equal(layer.double()(x.double()), fast.double()(x.double()))


@needs_onednn
@pytest.mark.parametrize("isa", ["DEFAULT", "AVX2", "AVX512"])
def test_the_memory_format_of_the_backbone_follows_the_processor(isa, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: isa)
    assert use_cpu_layers(HRNet(4)).trains_channels_last is (isa == "AVX512")


@needs_onednn
def test_names_parameters_and_small_layers_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(512, 512), Conv2d(8, 8, 3, padding=1))
    before = dict(model.named_parameters())
    use_cpu_layers(model)
    after = dict(model.named_parameters())
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)
    assert [type(m) for m in model] == [nn.Linear, CPULinear, Conv2d]


def test_linear_layers_stay_where_onednn_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_training, "multiplies_faster", lambda: False)
    assert type(use_cpu_layers(nn.Linear(512, 512))) is nn.Linear
