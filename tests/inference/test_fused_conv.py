"""Fused layers equal the layers that they stand for."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from hrnet_d2.inference.fused_conv import FusedConv2d, can_fuse, fuse_conv
from hrnet_d2.layers.onednn import computes_bfloat16


def _norm(kind, channels: int) -> nn.Module:
    norm = kind(channels).eval()
    generator = torch.Generator().manual_seed(1)
    for name, low, high in [
        ("weight", 0.5, 2),
        ("bias", -1, 1),
        ("running_mean", -1, 1),
        ("running_var", 0.3, 3),
    ]:
        value = low + (high - low) * torch.rand(channels, generator=generator)
        getattr(norm, name).data.copy_(value)
    return norm


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, FrozenBatchNorm2d, None])
@pytest.mark.parametrize(
    ("cin", "cout", "kernel", "stride", "groups"),
    [(6, 10, 3, 1, 1), (128, 64, 3, 1, 1), (8, 8, 3, 2, 2), (18, 36, 1, 1, 1)],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@torch.no_grad()
def test_norm_sum_and_relu(kind, cin, cout, kernel, stride, groups, bias, relu):
    torch.manual_seed(0)
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=bias)
    norm = None if kind is None else _norm(kind, cout)
    fused = FusedConv2d(conv, norm, relu=relu)
    x = torch.randn(2, cin, 9, 7)
    plain = conv(x) if norm is None else norm(conv(x))
    other = torch.randn_like(plain)
    act = F.relu if relu else nn.Identity()
    tolerance = {"rtol": 0, "atol": 3e-5}
    torch.testing.assert_close(fused(x), act(plain), **tolerance)
    torch.testing.assert_close(fused(x, other.clone()), act(plain + other), **tolerance)
    torch.testing.assert_close(fused(x[0]), act(plain[0]), **tolerance)  # without a batch
    empty = x[:0]
    assert fused(empty).shape == (0, *plain.shape[1:])
    with torch.enable_grad():
        torch.testing.assert_close(fused(x, other), act(plain + other), **tolerance)


def test_detectron2s_layer_with_its_norm_and_activation():
    conv = Conv2d(4, 6, 3, padding=1, norm=_norm(nn.BatchNorm2d, 6), activation=F.relu)
    assert can_fuse(conv)
    fused = fuse_conv(conv)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), conv(x), rtol=0, atol=1e-5)


def test_what_stays():
    assert not can_fuse(Conv2d(4, 8, 3, norm=nn.GroupNorm(2, 8)))
    assert not can_fuse(Conv2d(4, 8, 3, activation=torch.sigmoid))


@pytest.mark.parametrize("channels", [8, 128])  # oneDNN's layout, Winograd's
@pytest.mark.parametrize("assign", [False, True])
def test_new_weights_are_laid_out_again(channels, assign):
    old, new = (nn.Conv2d(channels, 64, 3, padding=1) for _ in range(2))
    fused, x = FusedConv2d(old), torch.randn(1, channels, 16, 16)
    with torch.no_grad():
        fused(x)
        expected = new(x)
        fused.load_state_dict(new.state_dict(), assign=assign)
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
        fused.weight.mul_(2)
        fused.bias.mul_(2)
        torch.testing.assert_close(fused(x), 2 * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not computes_bfloat16(), reason="a CPU without bfloat16 kernels")
@pytest.mark.parametrize("channels", [16, 128], ids=["direct", "winograd in float32"])
def test_autocast_computes_in_its_type(channels: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 64, 3, padding=1)
    fused, x = fuse_conv(conv), torch.randn(1, channels, 20, 24)
    with torch.no_grad():
        exact = fused(x)
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = fused(x), conv(x)
        assert found.dtype == torch.bfloat16
        # Winograd's transforms in bfloat16 would be off by several times this.
        error = (found.float() - exact).abs().max()
        assert error < 1.5 * (expected.float() - exact).abs().max() + 1e-6
        assert torch.equal(fused(x), exact)
