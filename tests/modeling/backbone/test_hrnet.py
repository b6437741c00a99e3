import copy

import pytest
import torch
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from torch import nn

from hrnet_d2 import add_hrnet_config
from hrnet_d2.modeling import HRFPN, HRNet
from tests.memory import saved_for_backward
from tests.parity import FEATURE_TOLERANCE, feature_error, load_case


def small_config(*overrides):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2_backbone"
    cfg.MODEL.HRNETV2P.WIDTH = 4
    cfg.merge_from_list(list(overrides))
    return cfg


def test_parameter_names_are_those_of_the_published_files():
    assert len(HRNet(18).state_dict()) == 1525 + 305  # of which 305 num_batches_tracked


@pytest.mark.parametrize("width", [18, 32, 40, 48])
def test_strides_and_channels(width):
    net = HRNet(width)
    shapes = net.output_shape()
    assert list(shapes) == ["res2", "res3", "res4", "res5"]
    assert [s.stride for s in shapes.values()] == [4, 8, 16, 32]
    assert [s.channels for s in shapes.values()] == [width, 2 * width, 4 * width, 8 * width]
    assert net.size_divisibility == 32
    with torch.no_grad():
        for name, feature in net(torch.zeros(1, 3, 64, 96)).items():
            stride = shapes[name].stride
            assert feature.shape == (1, shapes[name].channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("width", [18, 32, 40, 48])
def test_every_parameter_of_backbone_and_neck_learns(width):
    net = HRFPN(HRNet(width, norm_eval=False))
    sum(f.square().mean() for f in net(torch.randn(2, 3, 64, 64)).values()).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("shape", [(1, 3, 64, 65), (1, 3, 33, 64), (3, 64, 64)])
def test_unpadded_input_is_refused(shape):
    with pytest.raises(ValueError, match="multiples of 32"):
        HRNet(4)(torch.zeros(shape))


def test_norm_eval_keeps_statistics_and_trains_weights_and_biases():
    net = HRNet(4, norm_eval=True).train()
    before = copy.deepcopy(net.state_dict())
    sum(f.sum() for f in net(torch.randn(1, 3, 64, 64)).values()).backward()
    after = net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "running" in k)
    assert net.training and not net.bn1.training
    assert net.bn1.weight.grad is not None
    assert net.eval() is net and net.train() is net


def test_norm_eval_off_measures_statistics():
    net = HRNet(4, norm_eval=False).train()
    before = net.bn1.running_mean.clone()
    net(torch.randn(1, 3, 64, 64))
    assert not torch.equal(before, net.bn1.running_mean)


@pytest.mark.parametrize(
    "norm, layer",
    [
        ("BN", nn.BatchNorm2d),
        ("FrozenBN", FrozenBatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("GN", nn.GroupNorm),
        (nn.InstanceNorm2d, nn.InstanceNorm2d),
    ],
)
def test_norm_by_name(norm, layer):
    net = HRNet(18, norm=norm)
    assert isinstance(net.bn1, layer)
    if norm != "SyncBN":  # which runs on GPUs alone
        net(torch.randn(1, 3, 64, 64))


def test_no_norm_is_refused():
    with pytest.raises(ValueError, match="normalization"):
        HRNet(4, norm="")


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_stops_the_stages_below(freeze_at):
    net = HRNet(4, freeze_at=freeze_at, norm_eval=False).train()
    stages = [
        [net.conv1, net.bn1, net.conv2, net.bn2],
        [net.layer1],
        [net.transition1, net.stage2],
        [net.transition2, net.stage3],
        [net.transition3, net.stage4],
    ]
    for i, stage in enumerate(stages):
        for module in stage:
            assert all(p.requires_grad == (i >= freeze_at) for p in module.parameters())
            for m in module.modules():
                if isinstance(m, nn.BatchNorm2d):
                    assert m.training == (i >= freeze_at)


@pytest.mark.parametrize("norm_eval", [True, False])
def test_training_on_channels_last_maps_is_the_same(norm_eval):
    torch.manual_seed(0)
    plain = HRNet(4, norm_eval=norm_eval).double().train()
    other = copy.deepcopy(plain)
    other.trains_channels_last = True
    x = torch.randn(2, 3, 64, 96, dtype=torch.double)
    features = []
    for net in (plain, other):
        features.append(net(x))
        sum(f.square().mean() for f in features[-1].values()).backward()
    for name, feature in features[1].items():
        assert feature.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(feature, features[0][name])
    for (name, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-9, msg=name)
        assert b.is_contiguous() and b.grad.is_contiguous()
    with torch.no_grad():
        assert all(f.is_contiguous() for f in other.eval()(x).values())


@pytest.mark.parametrize("norm_eval", [True, False])
def test_activation_checkpointing_changes_nothing(norm_eval):
    torch.manual_seed(0)
    plain = HRNet(4, norm_eval=norm_eval).train()
    saving = HRNet(
        4, norm_eval=norm_eval, act_checkpoint=("stage1", "stage2", "stage3", "stage4")
    ).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for net in (plain, saving):
        sum(f.square().mean() for f in net(x).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_activation_checkpointing_keeps_fewer_tensors():
    def saved_bytes(**kwargs):
        net = HRNet(4, norm_eval=True, **kwargs).train()
        x = torch.randn(1, 3, 64, 64)
        return saved_for_backward(lambda: net(x))

    stages = ("stage1", "stage2", "stage3", "stage4")
    assert saved_bytes(act_checkpoint=stages) < 0.5 * saved_bytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width": 0}, "width"),
        ({"freeze_at": 6}, "freeze_at"),
        ({"act_checkpoint": ("stage5",)}, "stage5"),
        ({"out_features": ("p2",)}, "p2"),
        ({"out_features": ()}, "out_features"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HRNet(**{"width": 4, **arguments})


def test_yaml_and_lazy_config_build_the_same_network():
    from_yaml = build_backbone(small_config())
    lazy = instantiate(LazyCall(HRNet)(width=4))
    assert {k: v.shape for k, v in from_yaml.state_dict().items()} == {
        k: v.shape for k, v in lazy.state_dict().items()
    }


def test_yaml_keys_reach_the_network():
    net = build_backbone(
        small_config(
            "MODEL.HRNETV2P.NORM", "GN",
            "MODEL.HRNETV2P.NORM_EVAL", "False",
            "MODEL.HRNETV2P.FREEZE_AT", "2",
            "MODEL.HRNETV2P.ACT_CHECKPOINT", "['stage3']",
            "MODEL.HRNETV2P.OUT_FEATURES", "['res3', 'res5']",
        )
    )  # fmt: skip
    assert isinstance(net.bn1, nn.GroupNorm)
    assert not net.norm_eval and net.freeze_at == 2 and net.act_checkpoint == ("stage3",)
    assert list(net(torch.zeros(1, 3, 64, 64))) == ["res3", "res5"]


def test_a_config_without_our_keys_says_what_to_call():
    cfg = get_cfg()
    with pytest.raises(KeyError, match="add_hrnet_config"):
        BACKBONE_REGISTRY.get("build_hrnetv2_backbone")(cfg, None)


@pytest.mark.parametrize("name", ["faster_rcnn_hrnetv2p_w18", "mask_rcnn_hrnetv2p_w32"])
def test_backbone_equals_the_reference(name):
    case = load_case(name)
    net = HRNet(case.spec["width"]).eval()
    state = case.state_dict()
    prefix = "backbone."
    net.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    image = torch.from_numpy(case.arrays["image_resized"][:, :, ::-1].transpose(2, 0, 1).copy())
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    image = (image - mean) / std
    image = nn.functional.pad(image, (0, -image.shape[2] % 32, 0, -image.shape[1] % 32))
    with torch.no_grad():
        features = net(image[None])
    for i, feature in enumerate(features.values()):
        assert feature_error(feature, case.arrays[f"backbone{i}"]) < FEATURE_TOLERANCE
