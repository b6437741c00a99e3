"""FCOS as a model: the reference cases, configs, edge cases and precision."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from hrnet_d2 import add_hrnet_config, model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.modeling import FCOS, FCOSHead
from tests.parity import (
    FEATURE_TOLERANCE,
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    feature_error,
    load_case,
    match_detections,
    training_step,
)

CASES = {
    "fcos_hrnetv2p_w18": "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml",
    "fcos_hrnetv2p_w48": "fcos/fcos_hrnetv2p_w48_gn-head_mstrain_640-800_4x4_2x_coco.yaml",
}
LOSSES = {
    "loss_fcos_cls": "loss_cls",
    "loss_fcos_loc": "loss_bbox",
    "loss_fcos_ctr": "loss_centerness",
}
# Names of December 2020 -> March 2020.
OLD_NAMES = {
    "bbox_head.conv_cls.": "bbox_head.fcos_cls.",
    "bbox_head.conv_reg.": "bbox_head.fcos_reg.",
    "bbox_head.conv_centerness.": "bbox_head.fcos_centerness.",
}
GRADIENTS = {
    "backbone.conv1.weight": "backbone.bottom_up.conv1.weight",
    "backbone.stage4.0.fuse_layers.0.3.0.weight": (
        "backbone.bottom_up.stage4.0.fuse_layers.0.3.0.weight"
    ),
    "neck.reduction_conv.conv.weight": "backbone.reduction_conv.weight",
    "neck.fpn_convs.0.conv.weight": "backbone.fpn_output3.weight",
    "bbox_head.conv_cls.weight": "head.cls_score.weight",
    "bbox_head.conv_reg.weight": "head.bbox_pred.weight",
    "bbox_head.conv_centerness.weight": "head.ctrness.weight",
}


@pytest.mark.parametrize(
    "name", ["fcos_hrnetv2p_w18", pytest.param("fcos_hrnetv2p_w48", marks=pytest.mark.slow)]
)
def test_reference_case(name, tmp_path):
    case = load_case(name)
    cfg = model_zoo.get_config(CASES[name])
    cfg.defrost()
    case.configure(cfg)
    model = build_model(cfg)
    model.eval()
    Checkpointer(model).load(case.save_checkpoint(tmp_path / "case.pth"))

    inputs = case.inputs(cfg)
    with torch.no_grad():
        features = model.backbone(model.preprocess_image(inputs).tensor)
        inputs[0]["height"], inputs[0]["width"] = case.spec["original_size"]
        detections = model(inputs)[0]["instances"]
    assert list(features) == ["p3", "p4", "p5", "p6", "p7"]
    for i, feature in enumerate(features.values()):
        assert feature_error(feature, case.arrays[f"neck{i}"]) < FEATURE_TOLERANCE
    assert len(detections) == len(case.arrays["pred_boxes"]) == 100
    assert len(match_detections(case, detections)) == 100

    losses = training_step(model, case, cfg)
    assert losses.keys() == LOSSES.keys()
    for ours, theirs in LOSSES.items():
        assert losses[ours] == pytest.approx(case.spec["losses"][theirs], rel=LOSS_TOLERANCE)
    parameters = dict(model.named_parameters())
    assert case.spec["gradient_norms"].keys() == GRADIENTS.keys()
    for theirs, norm in case.spec["gradient_norms"].items():
        made = float(parameters[GRADIENTS[theirs]].grad.norm())
        assert made == pytest.approx(norm, rel=GRADIENT_TOLERANCE)


def test_both_generations_of_names_load_the_same(tmp_path):
    case = load_case("fcos_hrnetv2p_w18")
    cfg = model_zoo.get_config(CASES["fcos_hrnetv2p_w18"])
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    state = case.state_dict()
    old = {}
    for name, value in state.items():
        for new, before in OLD_NAMES.items():
            name = name.replace(new, before)
        old[name] = value
    assert len(old.keys() - state.keys()) == 6
    loaded = []
    for weights in (state, old):
        path = tmp_path / f"{len(loaded)}.pth"
        torch.save({"meta": {}, "state_dict": weights}, path)
        model = build_model(cfg)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(math.nan)  # whatever a checkpoint does not set shows
        Checkpointer(model).load(str(path))
        loaded.append(model.state_dict())
    assert loaded[0].keys() == loaded[1].keys()
    for name, value in loaded[0].items():
        assert torch.equal(value, loaded[1][name]), name
    for level in range(5):
        expected = state[f"bbox_head.scales.{level}.scale"]
        assert loaded[1][f"head.scales.{level}.scale"].shape == ()
        assert torch.equal(loaded[1][f"head.scales.{level}.scale"], expected)


class Pyramid(Backbone):
    """Five levels by pooling and one small convolution each: a backbone for tests."""

    channels = 64

    def __init__(self, names: Sequence[str] = ("p3", "p4", "p5", "p6", "p7")):
        super().__init__()
        self.strides = dict(zip(names, (8, 16, 32, 64, 128), strict=False))
        self.convs = nn.ModuleDict({n: nn.Conv2d(3, self.channels, 3, padding=1) for n in names})

    def output_shape(self):
        return {n: ShapeSpec(channels=self.channels, stride=s) for n, s in self.strides.items()}

    def forward(self, x):
        size = x.shape[-2:]
        pooled = {n: [max(1, v // s) for v in size] for n, s in self.strides.items()}
        return {n: self.convs[n](F.adaptive_avg_pool2d(x, pooled[n])) for n in self.strides}


def small_fcos(seed=0, num_classes=3, head=None, **kwargs) -> FCOS:
    torch.manual_seed(seed)
    backbone = Pyramid()
    shapes = list(backbone.output_shape().values())
    options = {"num_classes": num_classes, "num_convs": 1, **(head or {})}
    model = FCOS(
        backbone=backbone,
        head=FCOSHead(shapes, **options),
        num_classes=num_classes,
        **kwargs,
    )
    with torch.no_grad():  # spread the predictions, and give the boxes a size
        model.head.cls_score.weight.mul_(60)
        model.head.cls_score.bias.fill_(-1)
        model.head.bbox_pred.bias.fill_(3.0)
    return model


def record(boxes, classes=None, size=(96, 128), seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    classes = [0] * len(boxes) if classes is None else classes
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return {"image": image, "instances": instances}


def train(model, inputs) -> dict[str, float]:
    model.train()
    model.zero_grad()
    with EventStorage(0):
        losses = model(inputs)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize(
    "boxes",
    [
        [[], []],
        [[], [[10, 10, 60, 50]]],
        [[[5, 5, 7, 7]], [[-40, -40, -10, -10]]],  # between locations; outside of the image
    ],
    ids=["no objects", "one empty image", "no location"],
)
def test_without_objects_every_parameter_has_a_gradient(boxes):
    model = small_fcos()
    losses = train(model, [record(b) for b in boxes])
    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses["loss_fcos_cls"] > 0
    if any(x2 > 10 for image in boxes for _, _, x2, _ in image):
        assert losses["loss_fcos_loc"] > 0 and losses["loss_fcos_ctr"] > 0
    else:
        assert losses["loss_fcos_loc"] == losses["loss_fcos_ctr"] == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_batch_loss_is_of_all_images_locations_together():
    """The divisor is the batch's, so a batch of twice the same image has the image's loss."""
    model = small_fcos()
    one = record([[10, 10, 60, 50], [40, 20, 120, 90]], [0, 2])
    single, double = train(model, [one]), train(model, [one, one])
    for name, loss in single.items():
        assert double[name] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "layer, kind, level",
    [("cls_score", "class", "p3"), ("bbox_pred", "box", "p3"), ("ctrness", "centerness", "p3")],
)
def test_nonfinite_predictions_in_training_are_an_error_that_says_where(layer, kind, level):
    model = small_fcos()
    inputs = [record([[10, 10, 60, 50]]), record([[10, 10, 60, 50]])]
    with torch.no_grad():
        getattr(model.head, layer).bias[-1] = math.nan
    with pytest.raises(FloatingPointError, match=f"{kind} predictions of {level} in image 1"):
        train(model, inputs)


def test_overflow_of_one_level_is_named_alone():
    model = small_fcos()
    with torch.no_grad():
        model.head.scales[2].scale.fill_(1e6)  # exp overflows
    with pytest.raises(FloatingPointError) as error:
        train(model, [record([[10, 10, 60, 50]])])
    assert "box predictions of p5 in image 0" in str(error.value)
    assert "p3" not in str(error.value) and "class predictions" not in str(error.value)


def test_nonfinite_predictions_at_test_are_dropped():
    model = small_fcos(test_score_thresh=0.0).eval()
    inputs = [record([])]
    with torch.no_grad():
        assert len(model(inputs)[0]["instances"]) > 0
        model.head.scales[0].scale.fill_(math.nan)
        rest = model(inputs)[0]["instances"]
        assert len(rest) > 0 and rest.pred_boxes.tensor.isfinite().all()
        model.head.cls_score.bias.fill_(math.nan)
        assert len(model(inputs)[0]["instances"]) == 0


@pytest.mark.parametrize("label", [3, -1])
def test_class_out_of_range_is_an_error(label):
    with pytest.raises(ValueError, match=r"0 \.\.\. 2.*NUM_CLASSES"):
        train(small_fcos(), [record([[10, 10, 60, 50]], [label])])


def test_batch_equals_single_images():
    model = small_fcos(test_score_thresh=0.3).eval()
    inputs = [record([], seed=i) for i in range(3)]
    with torch.no_grad():
        together = model(inputs)
        for one, output in zip(inputs, together, strict=True):
            alone, output = model([one])[0]["instances"], output["instances"]
            assert len(alone) == len(output) > 0
            assert torch.allclose(
                alone.pred_boxes.tensor, output.pred_boxes.tensor, rtol=1e-4, atol=1e-3
            )
            assert torch.allclose(alone.scores, output.scores, atol=1e-5)


def test_output_is_in_the_size_asked_for():
    model = small_fcos(test_score_thresh=0.3).eval()
    one = record([])
    with torch.no_grad():
        small = model([one])[0]["instances"]
        large = model([{**one, "height": 192, "width": 384}])[0]["instances"]
    assert large.image_size == (192, 384)
    factor = torch.tensor([3.0, 2.0, 3.0, 2.0])
    assert torch.allclose(large.pred_boxes.tensor, small.pred_boxes.tensor * factor)


def test_bfloat16_autocast():
    """Distances and losses stay in float32, and near those of full precision."""
    model = small_fcos()
    inputs = [record([[10, 10, 60, 50], [40, 20, 120, 90]], [0, 2])]
    full = train(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = list(model.backbone(model.preprocess_image(inputs).tensor).values())
        logits, distances, _ = model.head(features)
        half = train(model, inputs)
        model.eval()
        with torch.no_grad():
            detections = model(inputs)[0]["instances"]
    assert logits[0].dtype == torch.bfloat16
    assert all(x.dtype == torch.float32 for x in distances)
    for name, loss in full.items():
        assert half[name] == pytest.approx(loss, rel=0.03)
    assert detections.scores.dtype == detections.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.parametrize(
    "head, kwargs",
    [
        ({"norm_on_bbox": True}, {}),
        ({"centerness_on_reg": True}, {}),
        ({"num_convs": 0}, {}),
        ({"num_convs": 2, "norm": ""}, {}),
        ({}, {"center_sampling_radius": 1.5}),
        ({}, {"box_loss": "giou"}),
        ({}, {"box_loss": "diou"}),
    ],
)
def test_later_improvements_change_the_result_and_train(head, kwargs):
    inputs = [record([[10, 10, 60, 50], [40, 20, 120, 90]], [0, 2])]
    plain, model = train(small_fcos(), inputs), small_fcos(head=head, **kwargs)
    losses = train(model, inputs)
    assert losses != plain
    assert all(math.isfinite(loss) for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        assert model(inputs)[0]["instances"].pred_boxes.tensor.isfinite().all()


def test_norm_on_bbox_regresses_strides_through_relu():
    features = [torch.randn(1, 64, s, s) for s in (8, 4, 2, 1, 1)]
    model = small_fcos(head={"norm_on_bbox": True})
    raw = model.head.bbox_pred(model.head.bbox_subnet(features[1]))
    with torch.no_grad():
        model.head.scales[1].scale.fill_(0.5)
    expected = (0.5 * raw).clamp(min=0) * 16
    assert torch.allclose(model.head(features)[1][1], expected)


def test_centerness_reads_its_tower():
    """The gradient of the centerness reaches one tower, and not the other."""
    for on_reg in (False, True):
        head = small_fcos(head={"centerness_on_reg": on_reg}).head
        sum(x.sum() for x in head([torch.randn(1, 64, 4, 4)] * 5)[2]).backward()
        assert (head.cls_subnet[0].weight.grad is None) == on_reg
        assert (head.bbox_subnet[0].weight.grad is None) == (not on_reg)


def test_head_of_the_table_starts_as_published():
    cfg = model_zoo.get_config(CASES["fcos_hrnetv2p_w18"])
    head = FCOSHead(cfg, [ShapeSpec(channels=256, stride=2**i) for i in range(3, 8)])
    names = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert names["cls_subnet.0.weight"] == (256, 256, 3, 3)
    assert "cls_subnet.0.bias" not in names and "bbox_subnet.9.bias" not in names
    assert isinstance(head.cls_subnet[10], nn.GroupNorm) and head.cls_subnet[10].num_groups == 32
    assert names["scales.4.scale"] == ()
    assert len(names) == 2 * 4 * 3 + 3 * 2 + 5
    assert head.cls_score.bias.sigmoid().mean().item() == pytest.approx(0.01)
    assert head.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_training_draws_where_asked():
    model = small_fcos(input_format="BGR", vis_period=1)
    model.train()
    with EventStorage(0) as storage:
        model([record([[10, 10, 60, 50]])])
    (drawing,) = storage._vis_data
    assert drawing[1].shape[0] == 3
    assert storage.latest()["fcos/num_positive_locations"][0] > 0


def test_lazy_config():
    config = L(FCOS)(
        backbone=L(Pyramid)(),
        head=L(FCOSHead)(
            input_shape=[ShapeSpec(channels=64, stride=2**i) for i in range(3, 8)],
            num_classes=2,
        ),
        num_classes=2,
    )
    model = instantiate(config)
    assert model.head_in_features == ["p3", "p4", "p5", "p6", "p7"]
    assert train(model, [record([[10, 10, 60, 50]])])["loss_fcos_cls"] > 0


def test_stock_resnet_fpn_from_yaml_keys():
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FCOS.NUM_CLASSES = 3
    cfg.MODEL.FCOS.NUM_CONVS = 1
    model = build_model(cfg)
    losses = train(model, [record([[10, 10, 60, 50]])])
    assert all(math.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        assert "instances" in model.eval()([record([])])[0]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"head_in_features": ["p2", "p3"]}, r"\['p2'\].*NECK.STRIDE"),
        ({"sizes_of_interest": (64, 128)}, "sizes_of_interest"),
        ({"sizes_of_interest": (64, 256, 128, 512)}, "sizes_of_interest"),
        ({"box_loss": "ciou"}, "ciou"),
        ({"test_topk_by": "points"}, "TOPK_BY must be one of .*'points'"),
        ({"vis_period": 10}, "input_format"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small_fcos(**kwargs)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"num_convs": -1}, {"prior_prob": 1.0}])
def test_head_arguments_out_of_range_are_an_error(arguments):
    with pytest.raises(ValueError, match="num_classes >= 1"):
        FCOSHead([ShapeSpec(channels=32, stride=8)], **arguments)
    with pytest.raises(ValueError, match="equal channels"):
        FCOSHead([ShapeSpec(channels=32, stride=8), ShapeSpec(channels=64, stride=16)])


def test_stride_one_neck_is_an_error_that_says_what_to_set():
    cfg = model_zoo.get_config(CASES["fcos_hrnetv2p_w18"])
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.HRNETV2P.NECK.STRIDE = 1
    with pytest.raises(ValueError, match=r"\['p7'\].*MODEL.HRNETV2P.NECK.STRIDE: 2"):
        build_model(cfg)
