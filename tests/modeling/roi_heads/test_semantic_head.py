"""The fused semantic head against a plain reading of its formulas."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.nn import functional as F

from hrnet_d2.modeling import FusedSemanticHead

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
NUM_CLASSES = 6


def make_head(**arguments):
    torch.manual_seed(0)
    shapes = {name: ShapeSpec(channels=4, stride=stride) for name, stride in STRIDES.items()}
    head = FusedSemanticHead(shapes, num_classes=NUM_CLASSES, conv_dim=4, **arguments)
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return head


def make_features(height=96, width=160, batch=2):
    torch.manual_seed(1)
    return {n: torch.randn(batch, 4, height // s, width // s) for n, s in STRIDES.items()}


def reference(head, features):
    """Resize (aligned corners), then convolve, then ReLU; sum; four convolutions."""

    def conv(layer, x):
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)

    size = features["p3"].shape[-2:]
    total = 0
    for name, lateral in zip(STRIDES, head.lateral_convs, strict=True):
        resized = F.interpolate(features[name], size, mode="bilinear", align_corners=True)
        total = total + conv(lateral, resized).relu()
    for layer in head.convs:
        total = conv(layer, total).relu()
    return conv(head.conv_logits, total), conv(head.conv_embedding, total).relu()


def test_forward_and_gradient_are_those_of_the_formulas():
    head, features = make_head(), make_features()
    head.eval()
    expected = reference(head, features)
    logits, (embedding, losses) = head.predict(features), head(features)
    assert losses == {} and embedding.shape == (2, 4, 12, 20)
    torch.testing.assert_close(logits, expected[0])
    torch.testing.assert_close(embedding, expected[1])
    made = torch.autograd.grad(embedding.square().sum(), head.lateral_convs.parameters())
    wanted = torch.autograd.grad(expected[1].square().sum(), head.lateral_convs.parameters())
    for a, b in zip(made, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_corners_are_aligned():
    head, features = make_head(), make_features()
    other = {**features, "p4": features["p4"].clone()}
    other["p4"][..., 0, 0] += 1.0
    head.lateral_convs[2].weight.data.abs_()
    # with aligned corners only the corners of the coarse and the fine map coincide
    resized = F.interpolate(other["p4"] - features["p4"], (12, 20), mode="bilinear")
    assert resized[0, 0, 0, 1] == 0.75  # without, it would still have three quarters one pixel on
    size = torch.Size((12, 20))
    aligned = F.interpolate(other["p4"] - features["p4"], size, mode="bilinear", align_corners=True)
    assert aligned[0, 0, 0, 0] == 1 and aligned[0, 0, 0, 1] < 0.6
    torch.testing.assert_close(head.predict(other), reference(head, other)[0])


def test_loss_is_the_mean_over_pixels_not_ignored():
    head, features = make_head(loss_weight=0.2), make_features()
    head.train()
    sem_seg = torch.full((2, 96, 160), 255)
    sem_seg[0, 8:56, 16:80] = 3
    sem_seg[1, 0, 0] = 5  # the top left pixel of the first cell
    sem_seg[1, 40, 41:48] = 1  # no cell's top left pixel
    labels = sem_seg[:, ::8, ::8]
    logits = head.predict(features)
    valid = labels != 255
    expected = F.cross_entropy(logits.permute(0, 2, 3, 1)[valid], labels[valid]) * 0.2
    assert valid[1].sum() == 1
    torch.testing.assert_close(head(features, sem_seg)[1]["loss_sem_seg"], expected)


def test_nearest_resize_takes_the_top_left_pixel():
    labels = torch.arange(96 * 160).reshape(1, 1, 96, 160).float()
    nearest = F.interpolate(labels, scale_factor=1 / 8, mode="nearest")
    assert torch.equal(nearest, labels[..., ::8, ::8])


def test_all_ignored_is_zero_and_connected():
    head, features = make_head(), make_features()
    head.train()
    embedding, losses = head(features, torch.full((2, 96, 160), 255))
    assert losses["loss_sem_seg"] == 0
    (losses["loss_sem_seg"] + embedding.sum() * 0).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("label", [NUM_CLASSES, 254, -1])
def test_labels_out_of_range_are_named(label):
    head = make_head().train()
    sem_seg = torch.zeros(2, 96, 160, dtype=torch.int64)
    sem_seg[1, 16, 24] = label
    with pytest.raises(ValueError, match=f"label {label}.*NUM_CLASSES is {NUM_CLASSES}"):
        head(make_features(), sem_seg)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(64, 160\)"):
        make_head().train()(make_features(), torch.zeros(2, 64, 160, dtype=torch.int64))


def test_training_without_maps_is_refused():
    with pytest.raises(ValueError, match="SEMANTIC_ON"):
        make_head().train()(make_features())


def test_the_common_stride_must_be_a_levels():
    with pytest.raises(ValueError, match="common stride 10"):
        make_head(common_stride=10)
