import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.modeling import Backbone, build_backbone, build_model

from hrnet_d2 import add_hrnet_config
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.modeling import HRFPN, HRNet


def upsampled(x: np.ndarray, scale: int) -> np.ndarray:
    """Bilinear upsampling of (C, H, W) by definition: pixel centers, borders repeated."""

    def weights(size):
        matrix = np.zeros((size * scale, size))
        for i in range(size * scale):
            at = max((i + 0.5) / scale - 0.5, 0)
            low = min(int(at), size - 1)
            matrix[i, low] += 1 - (at - low)
            matrix[i, min(low + 1, size - 1)] += at - low
        return matrix

    rows, columns = weights(x.shape[1]), weights(x.shape[2])
    return np.einsum("ih,chw,jw->cij", rows, x, columns)


def pooled(x: np.ndarray, k: int) -> np.ndarray:
    """Mean of k x k blocks of (C, H, W); a remainder is dropped."""
    h, w = x.shape[1] // k, x.shape[2] // k
    return x[:, : h * k, : w * k].reshape(len(x), h, k, w, k).mean((2, 4))


@pytest.mark.parametrize("stride", [1, 2])
def test_equals_the_definition(stride):
    torch.manual_seed(0)
    net = HRFPN(HRNet(4), out_channels=8, stride=stride, num_outs=4).eval().double()
    x = torch.randn(1, 3, 128, 160, dtype=torch.double)
    with torch.no_grad():
        maps = [m[0].numpy() for m in net.bottom_up(x).values()]
        outputs = net(x)
    stacked = np.concatenate([upsampled(m, 2**i) if i else m for i, m in enumerate(maps)])
    weight = net.reduction_conv.weight[:, :, 0, 0].detach().numpy()
    mixed = np.einsum("oc,chw->ohw", weight, stacked)
    mixed += net.reduction_conv.bias.detach().numpy()[:, None, None]
    for i, (name, output) in enumerate(outputs.items()):
        conv = getattr(net, f"fpn_output{name[1:]}")
        expected = torch.nn.functional.conv2d(
            torch.from_numpy(pooled(mixed, 2**i))[None],
            conv.weight,
            conv.bias,
            padding=1,
            stride=stride,
        )
        torch.testing.assert_close(output, expected.detach())


@pytest.mark.parametrize("kwargs", [{}, {"norm": "GN", "activation": "relu"}])
def test_mixing_before_the_upsampling_is_the_same(kwargs):
    torch.manual_seed(0)
    net = HRFPN(HRNet(4), out_channels=32, num_outs=3, **kwargs).double()
    x = torch.randn(2, 3, 64, 96, dtype=torch.double)
    found = []
    for net.concat in (True, False):
        net.zero_grad()
        outputs = net(x)
        sum((f * f.detach().cos()).mean() for f in outputs.values()).backward()
        found.append({**outputs, **{name: p.grad for name, p in net.named_parameters()}})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], msg=name)


@pytest.mark.parametrize(
    "stride, levels, sizes",
    [
        (1, "p2 p3 p4 p5 p6", [(200, 272), (100, 136), (50, 68), (25, 34), (12, 17)]),
        (2, "p3 p4 p5 p6 p7", [(100, 136), (50, 68), (25, 34), (13, 17), (6, 9)]),
    ],
)
def test_sizes_are_floors(stride, levels, sizes):
    net = HRFPN(HRNet(4), out_channels=4, stride=stride)
    with torch.no_grad():
        outputs = net(torch.zeros(1, 3, 800, 1088))
    assert list(outputs) == levels.split()
    assert [tuple(f.shape[-2:]) for f in outputs.values()] == sizes
    shapes = net.output_shape()
    assert [shapes[k].stride for k in outputs] == [4 * stride * 2**i for i in range(5)]
    assert all(s.channels == 4 for s in shapes.values())
    assert net.size_divisibility == 32
    assert net.padding_constraints == {}


def test_an_image_narrower_than_the_coarsest_window_has_all_levels():
    with torch.no_grad():
        outputs = HRFPN(HRNet(4), out_channels=4, stride=2)(torch.zeros(1, 3, 32, 1344))
    assert [tuple(f.shape[-2:]) for f in outputs.values()] == [
        (4, 168),
        (2, 84),
        (1, 42),
        (1, 21),
        (1, 11),
    ]


def test_norm_and_activation_are_optional():
    plain = HRFPN(HRNet(4), out_channels=4)
    assert plain.reduction_conv.norm is None and plain.reduction_conv.bias is not None
    full = HRFPN(HRNet(4), out_channels=4, norm="BN", activation="relu", pooling="max")
    assert full.reduction_conv.bias is None
    outputs = full(torch.randn(2, 3, 128, 128))
    assert all((f >= 0).all() for f in outputs.values())


class Odd(Backbone):
    """A backbone whose levels do not halve in resolution."""

    def __init__(self):
        super().__init__()
        self._out_features = ["a", "b"]
        self._out_feature_strides = {"a": 4, "b": 16}
        self._out_feature_channels = {"a": 4, "b": 4}

    def forward(self, x):
        return {"a": x, "b": x}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"stride": 3}, "stride"),
        ({"pooling": "min"}, "min"),
        ({"activation": "tanh"}, "tanh"),
        ({"in_features": ("res9",)}, "res9"),
        ({"bottom_up": Odd(), "in_features": ("a", "b")}, "halve"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HRFPN(**{"bottom_up": HRNet(4), **arguments})


def test_yaml_and_lazy_config_build_the_same_network():
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2p_backbone"
    cfg.MODEL.HRNETV2P.WIDTH = 4
    cfg.MODEL.HRNETV2P.NECK.STRIDE = 2
    cfg.MODEL.HRNETV2P.NECK.OUT_CHANNELS = 8
    from_yaml = build_backbone(cfg)
    lazy = instantiate(
        LazyCall(HRFPN)(bottom_up=LazyCall(HRNet)(width=4), stride=2, out_channels=8)
    )
    assert from_yaml.output_shape() == lazy.output_shape()
    lazy.load_state_dict(from_yaml.state_dict())


def stock_config(name: str, *overrides: str):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(detectron2_zoo.get_config_file(name))
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2p_backbone"
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.HRNETV2P.WIDTH", "4", *overrides])
    return cfg


RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


@pytest.mark.parametrize(
    "name, overrides, key, levels, made",
    [
        (RETINANET, (), "RETINANET", "p3, p4, p5, p6, p7", "p2, p3, p4, p5, p6"),
        (MASK_RCNN, ("STRIDE", "2"), "RPN", "p2, p3, p4, p5, p6", "p3, p4, p5, p6, p7"),
        (MASK_RCNN, ("NUM_OUTS", "3"), "ROI_HEADS", "p2, p3, p4, p5", "p2, p3, p4"),
    ],
)
def test_levels_that_a_stock_head_misses_are_said(name, overrides, key, levels, made):
    if overrides:
        overrides = (f"MODEL.HRNETV2P.NECK.{overrides[0]}", overrides[1])
    if key == "ROI_HEADS":
        overrides += ("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4']")
        overrides += ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128]]")
    cfg = stock_config(name, *overrides)
    message = (
        f"MODEL.{key}.IN_FEATURES names {levels}.*, but the backbone makes {made}. .*"
        "MODEL.HRNETV2P.NECK.STRIDE"
    )
    with pytest.raises(KeyError, match=message):
        build_model(cfg)


def test_the_config_check_says_it_before_anything_is_built():
    with pytest.raises(ConfigError, match="MODEL.RETINANET.IN_FEATURES names p7, .*STRIDE 1"):
        check_config(stock_config(RETINANET))


def test_a_head_of_another_project_is_told_too():
    shapes = HRFPN(HRNet(4)).output_shape()
    with pytest.raises(KeyError, match="a head reads 'p7', .* p2, p3, p4, p5, p6. .*STRIDE"):
        shapes["p7"]
    with pytest.raises(KeyError, match="'p2', .* res2, res3, res4, res5. .*HRFPN"):
        HRNet(4).output_shape()["p2"]
    # Otherwise it is a dictionary.
    assert "p7" not in shapes and shapes.get("p7") is None
    copied = pickle.loads(pickle.dumps(copy.deepcopy(shapes)))
    assert copied == shapes == dict(shapes)
    with pytest.raises(KeyError, match="STRIDE"):
        copied["p7"]


def test_panoptic_lazy_config():
    """Its semantic head takes the number of channels from the backbone's node."""
    model = detectron2_zoo.get_config("common/models/panoptic_fpn.py").model
    model.backbone = LazyCall(HRFPN)(bottom_up=LazyCall(HRNet)(width=4), out_channels=16)
    model.proposal_generator.head.in_channels = 16
    model.roi_heads.box_head.input_shape.channels = 16
    model.roi_heads.mask_head.input_shape.channels = 16
    built = instantiate(model)
    assert built.backbone.out_channels == 16
    assert built.sem_seg_head.p2[0].in_channels == 16
