"""Normalization on running statistics inside the convolution, in training and inference."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from hrnet_d2.layers.norm_folding import NormFolding, can_fold, conv_norm, scale_and_offset
from hrnet_d2.modeling import HRNet
from hrnet_d2.modeling.backbone import hrnet
from tests.memory import saved_for_backward


def measured(norm):
    """``norm`` with statistics and an affine unlike those it begins with."""
    for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.uniform_(0.5, 2) if name == "running_var" else tensor.normal_()
    return norm


def gradients(net, x):
    net.zero_grad()
    outputs = net(x)
    sum((f * f.detach().cos()).mean() for f in outputs.values()).backward()
    return outputs, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("affine", [True, False])
def test_scale_and_offset_are_the_layer(affine):
    norm = measured(nn.BatchNorm2d(6, affine=affine)).eval()
    x = torch.randn(2, 6, 3, 4)
    scale, offset = scale_and_offset(norm)
    expected = x * scale[:, None, None] + offset[:, None, None]
    torch.testing.assert_close(norm(x), expected)
    assert scale_and_offset(norm, torch.float64)[0].dtype == torch.float64


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_same_features_and_gradients_in_training(norm):
    torch.manual_seed(0)
    plain = HRNet(4, norm_eval=True, norm=norm, fold_norm=False).double().train()
    for module in plain.modules():
        if can_fold(module):
            measured(module).double()
            with torch.no_grad():
                module.weight.mul_(0.3)
    folded = HRNet(4, norm_eval=True, norm=norm).double().train()
    folded.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=torch.double)
    (a, ga), (b, gb) = gradients(plain, x), gradients(folded, x)
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)
    assert ga.keys() == gb.keys() and ("bn1.weight" in ga) == (norm == "BN")
    for name in ga:
        torch.testing.assert_close(ga[name], gb[name], msg=name)


def test_map_before_the_norm_is_not_kept():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 128, 128)
    plain, folded = (HRNet(4, norm_eval=True, fold_norm=fold).train() for fold in (False, True))
    held = [saved_for_backward(lambda net=net: sum(f.sum() for f in net(x).values()))
            for net in (plain, folded)]  # fmt: skip
    assert held[1] < 0.7 * held[0]


@pytest.mark.parametrize("batch_statistics", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])
def test_layers_that_measure_the_batch_run_as_they_are(batch_statistics):
    conv, x = nn.Conv2d(3, 4, 3, bias=False), torch.randn(2, 3, 8, 8)
    norm = batch_statistics.train()
    expected = copy.deepcopy(norm)(conv(x))
    with NormFolding([norm]).forward_pass():
        torch.testing.assert_close(conv_norm(conv, norm, x), expected, rtol=0, atol=0)


def test_inference_and_the_key_leave_the_layers_apart():
    conv, norm, calls = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval(), []
    forward = norm.forward
    norm.forward = lambda x: calls.append(1) or forward(x)
    x, folding = torch.randn(2, 3, 8, 8), NormFolding([norm])
    conv_norm(conv, norm, x)
    with torch.no_grad(), folding.forward_pass():
        conv_norm(conv, norm, x)
    assert len(calls) == 2
    with folding.forward_pass():
        conv_norm(conv, norm, x)
    assert len(calls) == 2
    assert HRNet(4, fold_norm=False).folding is None


def test_frozen_stages_stay_out_of_the_gradient():
    net, seen = HRNet(4, norm_eval=True, freeze_at=2).train(), []
    for module in (net.layer1[-1], net.transition1[0]):
        module.register_forward_hook(lambda m, i, out: seen.append(out.requires_grad))
    net(torch.randn(1, 3, 64, 64))["res2"].sum().backward()
    assert seen == [False, True]
    assert net.stage2[0].branches[0][0].bn1.weight.grad is not None


def test_a_layer_that_learns_its_statistics_again_is_left_alone():
    net = HRNet(4, norm_eval=True).train()
    net(torch.randn(1, 3, 64, 64))
    net.bn1.train()
    before = net.bn1.running_mean.clone()
    net(torch.randn(1, 3, 64, 64))
    assert not torch.equal(before, net.bn1.running_mean)


def test_a_network_is_copied_after_a_training_pass():
    net = HRNet(4, norm_eval=True).train()
    x = torch.randn(1, 3, 64, 64)
    expected = net(x)["res5"]
    other = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    assert set(other.folding.norms) <= set(other.modules())
    torch.testing.assert_close(other(x)["res5"], expected)


def test_what_folds():
    assert can_fold(None) and can_fold(nn.BatchNorm2d(8)) and can_fold(FrozenBatchNorm2d(8))
    assert not can_fold(nn.GroupNorm(2, 8))
    assert not can_fold(nn.BatchNorm2d(8, track_running_stats=False))


class _NormAndActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, x):
        return nn.functional.leaky_relu(super().forward(x), 0.1)


def test_a_layer_that_does_more_than_normalize_does_not_fold():
    assert not can_fold(_NormAndActivation(8))
    torch.manual_seed(0)
    net = HRNet(4, norm=_NormAndActivation, norm_eval=True).train()
    for norm in net.folding.norms:
        nn.init.constant_(norm.weight, 0.3)  # activations stay finite
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
    for name, level in net(x).items():
        torch.testing.assert_close(level, expected[name])


class _Adapted(nn.Module):
    """A layer around a convolution, as adapters of low rank are."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.adapter = nn.Conv2d(inner.in_channels, inner.out_channels, 1, bias=False)

    @property
    def weight(self):
        return self.inner.weight

    def forward(self, x):
        return self.inner(x) + self.adapter(x)


@pytest.mark.parametrize("name", ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.downsample.0"])
def test_layers_with_hooks_or_around_others_do_not_fold(name):
    torch.manual_seed(0)
    net = HRNet(4, norm_eval=True).train()
    for norm in net.folding.norms:
        nn.init.constant_(norm.weight, 0.3)  # activations stay finite
    net.layer1[0].conv1 = _Adapted(net.layer1[0].conv1)
    net.get_submodule(name).register_forward_hook(lambda module, x, out: 2 * out)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
    levels = net(x)
    for key, level in levels.items():
        torch.testing.assert_close(level, expected[key])
    levels["res2"].sum().backward()
    assert net.layer1[0].conv1.adapter.weight.grad.abs().sum() > 0


def _after_a_step(net: HRNet) -> None:
    """A training pass, and an optimizer step that changes every norm."""
    net(torch.randn(1, 3, 64, 64))["res5"].sum().backward()
    with torch.no_grad():
        for norm in net.folding.norms:
            norm.weight.mul_(1.5)
            norm.bias.add_(0.5)


def _interrupted(net: HRNet) -> None:
    """A training pass that fails half-way, then other norms."""
    broken = net.stage4[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net(torch.randn(1, 3, 64, 64))
    broken.remove()
    with torch.no_grad():
        for norm in net.folding.norms:
            norm.weight.mul_(1.5)


@pytest.mark.parametrize("before", [_after_a_step, _interrupted])
def test_a_block_on_its_own_uses_the_weights_of_now(before):
    torch.manual_seed(0)
    net = HRNet(4, norm_eval=True).train()
    block = net.stage4[0].branches[0][0]
    before(net)
    x = torch.randn(1, 4, 8, 8)
    now = copy.deepcopy(block).eval()
    with torch.no_grad():
        expected = now(x)
    torch.testing.assert_close(block(x), expected)


def test_recomputed_activations_use_the_norms_of_their_pass():
    torch.manual_seed(0)
    nets = [
        HRNet(4, norm_eval=True, act_checkpoint=stages).double().train()
        for stages in ((), ("stage4",))
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    (_, plain), (_, checkpointed) = (gradients(net, x) for net in nets)
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name], msg=name)


def test_threads_keep_to_their_own_pass():
    torch.manual_seed(0)
    net = HRNet(4, norm_eval=True).train()
    xs = [torch.randn(1, 3, 64, 64) for _ in range(8)]
    expected = [net(x)["res5"].detach() for x in xs]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda x: net(x)["res5"].detach(), xs))
    for a, b in zip(expected, made, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_compiles_to_one_graph(monkeypatch):
    monkeypatch.setattr(hrnet, "MODULES_PER_STAGE", (1, 1, 1))
    monkeypatch.setattr(hrnet, "BLOCKS_PER_BRANCH", 1)
    net = HRNet(4, norm_eval=True).double().train()
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    (_, expected) = gradients(net, x)
    (_, made) = gradients(torch.compile(net, backend="eager", fullgraph=True), x)
    for name, gradient in made.items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("_orig_mod.")])


class _Checkpointed(nn.Module):
    def __init__(self, block: nn.Module, reentrant: bool):
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("fold, reentrant", [(False, False), (True, True)])
def test_checkpointing_from_outside(fold, reentrant):
    torch.manual_seed(0)
    net = HRNet(4, norm_eval=True, fold_norm=fold).double().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # maps of a trained network's size
            nn.init.constant_(module.weight, 0.3)
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    (_, expected) = gradients(net, x)
    net.layer1[1] = _Checkpointed(net.layer1[1], reentrant)
    (_, made) = gradients(net, x)
    for name, gradient in made.items():
        torch.testing.assert_close(gradient, expected[name.replace(".block.", ".")])


def test_checkpointing_from_outside_is_never_silently_wrong():
    net = HRNet(4, norm_eval=True).train()
    net.layer1[1] = _Checkpointed(net.layer1[1], reentrant=False)
    with pytest.raises(CheckpointError):
        gradients(net, torch.randn(1, 3, 64, 64))
