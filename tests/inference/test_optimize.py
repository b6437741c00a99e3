"""Optimized models: the same detections, for every family; nothing else about the model changes."""

import copy
import functools
import gc
import multiprocessing
import pickle
import weakref

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import Conv2d, ROIAlign
from detectron2.modeling import build_model
from torch import nn
from torch._dynamo.utils import counters

import hrnet_d2
from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.inference.cuda_graphs import CUDAGraphs
from hrnet_d2.inference.fused_conv import FusedConv2d
from hrnet_d2.inference.fused_hrnet import FusedHRFPN, FusedHRNet
from hrnet_d2.inference.optimize import is_optimized, optimize, optimize_by_config
from hrnet_d2.layers.roi_align import FastROIAlign
from tests.parity import load_case

CASES = {
    "faster_rcnn_hrnetv2p_w18": "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
    "mask_rcnn_hrnetv2p_w32": "mask_rcnn/mask_rcnn_hrnetv2p_w32_1x_coco.yaml",
    "cascade_mask_rcnn_hrnetv2p_w18": (
        "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml"
    ),
    "htc_hrnetv2p_w18": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "fcos_hrnetv2p_w18": "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml",
}
FASTER = "faster_rcnn_hrnetv2p_w18"
TORCHS_OWN_WARNING = pytest.mark.filterwarnings(  # on importing its compiler
    "ignore:.*torch.jit.script_method.*:DeprecationWarning"
)


@functools.cache
def _model(case_name: str, folder) -> tuple:
    """(config, model) with the weights of a reference case."""
    case = load_case(case_name)
    cfg = model_zoo.get_config(CASES[case_name])
    cfg.defrost()
    case.configure(cfg)
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60
    model = build_model(cfg).eval()
    path = case.save_checkpoint(folder / f"{case_name}.pth")
    Checkpointer(model).load(path)
    return cfg, model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    yield lambda name: _model(name, folder)
    _model.cache_clear()


@pytest.fixture(scope="module")
def faster(models):
    return models(FASTER)[1]


def _image(height: int = 64, width: int = 96, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator) * 255
    image = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return {"image": image.to(torch.uint8), "height": height, "width": width}


def _detect(model, inputs):
    with torch.no_grad():
        return [output["instances"] for output in model(inputs)]


def _assert_same(plain, fast, pixels: float = 0.02):
    assert len(plain) == len(fast) > 0
    assert torch.equal(plain.pred_classes, fast.pred_classes)
    torch.testing.assert_close(fast.scores, plain.scores, rtol=0, atol=1e-4)
    boxes = fast.pred_boxes.tensor, plain.pred_boxes.tensor
    torch.testing.assert_close(*boxes, rtol=0, atol=pixels)
    if plain.has("pred_masks"):
        different = (plain.pred_masks != fast.pred_masks).float().mean()
        assert different < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_detections_of_every_family_stay(models, name):
    _, model = models(name)
    inputs = [_image(), _image(60, 90, seed=1)]
    fast = optimize(model)
    assert type(fast).__mro__[2] is type(model)
    for plain, made in zip(_detect(model, inputs), _detect(fast, inputs), strict=True):
        _assert_same(plain, made)
    norms = [m for m in fast.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms
    assert any(isinstance(m, FusedConv2d) and m.use_winograd for m in fast.modules())


def test_backbone_levels_equal_to_rounding(faster):
    fast = optimize(faster)
    assert isinstance(fast.backbone, FusedHRFPN)
    assert isinstance(fast.backbone.bottom_up, FusedHRNet)
    assert fast.backbone.output_shape() == faster.backbone.output_shape()
    assert fast.backbone.size_divisibility == 32
    inputs = [_image()]
    padded = fast.preprocess_image(inputs).tensor, faster.preprocess_image(inputs).tensor
    assert torch.equal(*padded)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, made = faster.backbone(x), fast.backbone(x)
    assert list(plain) == list(made)
    for level in plain:
        error = (plain[level] - made[level]).abs().max() / plain[level].abs().max()
        assert error < 2e-5, level
    with pytest.raises(ValueError, match="multiples of 32"):
        fast.backbone(x[..., :50])


def _state(model) -> dict[str, tuple]:
    """What of a model must stay: objects, values, types, devices, flags, memory."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: (id(t), t.data_ptr(), t.dtype, t.device, t.requires_grad, t.detach().clone())
        for name, t in tensors.items()
    } | {"training": ([m.training for m in model.modules()], torch.zeros(0))}


def _assert_unchanged(model, before: dict[str, tuple]) -> None:
    after = _state(model)
    assert after.keys() == before.keys()
    for name, (*facts, value) in before.items():
        assert after[name][:-1] == tuple(facts), name
        assert torch.equal(after[name][-1], value), name


@pytest.mark.parametrize("kwargs", [{}, {"fold": False}, {"dtype": torch.bfloat16}], ids=str)
@pytest.mark.parametrize("move", [None, "half", "double", "meta"])
def test_the_model_given_stays_as_it_is(faster, kwargs, move):
    before = _state(faster)
    fast = optimize(faster, **kwargs)
    _detect(fast, [_image()])
    if move is not None:
        fast.to("meta") if move == "meta" else getattr(fast, move)()
    _assert_unchanged(faster, before)


def test_a_model_in_training_goes_on_training(faster):
    faster.train()
    before = _state(faster)
    assert not optimize(faster).training
    _assert_unchanged(faster, before)
    faster.eval()


def test_group_norm_stays_as_it_is_in_16_bits():
    model = nn.Module()
    model.backbone = hrnet_d2.modeling.HRNet(4, norm="GN").eval()
    before = _state(model)
    optimize(model, dtype=torch.bfloat16).backbone(torch.randn(1, 3, 64, 64))
    _assert_unchanged(model, before)


def test_memory_is_shared_but_tensors_are_not(faster):
    fast = optimize(faster)
    given, made = faster.roi_heads.box_head.fc1.weight, fast.roi_heads.box_head.fc1.weight
    assert made is not given and made.data_ptr() == given.data_ptr()
    objects = {id(t) for t in [*faster.parameters(), *faster.buffers()]}
    assert not objects & {id(t) for t in [*fast.parameters(), *fast.buffers()]}


def test_a_copy_of_changed_weights_does_not_run(models):
    model = copy.deepcopy(models(FASTER)[1])
    fast = optimize(model)
    _detect(fast, [_image()])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    with pytest.raises(RuntimeError, match="have changed since.*call hrnet_d2.optimize again"):
        fast([_image()])


def _pickled(fast):
    return pickle.loads(pickle.dumps(fast))


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled])
def test_no_copy_is_made_of_changed_weights(models, copied):
    model = copy.deepcopy(models(FASTER)[1])
    before, inputs = _state(model), [_image()]
    fast, never_copied = optimize(model), optimize(model)
    expected, twin = _detect(fast, inputs)[0], copied(fast)
    _assert_unchanged(model, before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    with pytest.raises(RuntimeError, match="have changed since"):
        copied(never_copied)
    for independent in (fast, twin):
        _assert_same(expected, _detect(independent, inputs)[0])


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", ["bn1.running_mean", "bn1.weight", "conv1.weight"])
def test_each_change_is_noticed(models, name, fold):
    model = copy.deepcopy(models(FASTER)[1])
    fast = optimize(model, fold=fold)
    model.backbone.bottom_up.state_dict()[name].add_(1)
    with pytest.raises(RuntimeError, match="have changed since"):
        fast([_image()])


def test_a_copy_outlives_its_model(models):
    model = copy.deepcopy(models(FASTER)[1])
    expected, fast = _detect(model, [_image()])[0], optimize(model)
    weights = weakref.ref(model.backbone.bottom_up.conv1.weight)
    del model
    gc.collect()
    assert weights() is None  # folded ones are not kept
    _assert_same(expected, _detect(fast, [_image()])[0])


def test_inference_mode(models):
    cfg, model = models(FASTER)
    expected = _detect(model, [_image()])[0]
    with torch.inference_mode():
        inner = build_model(cfg).eval()
        inner.load_state_dict(model.state_dict())
        for plain in (model, inner):
            fast = optimize(plain).to(torch.float32)
            _assert_same(expected, fast([_image()])[0]["instances"])


@pytest.mark.parametrize("part", ["", "roi_heads.box_head", "backbone.bottom_up.stem.0"])
def test_no_weights_are_loaded_into_a_copy(faster, part):
    fast, before = optimize(faster), _state(faster)
    _detect(fast, [_image()])
    module = fast.get_submodule(part)
    state = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    with pytest.raises(RuntimeError, match="optimized model cannot load weights"):
        module.load_state_dict(state)
    with pytest.raises(RuntimeError, match="optimized model cannot load weights"):
        module.load_state_dict({}, strict=False)
    _assert_unchanged(faster, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name",
    ["backbone.bottom_up.stage3.1.branches.0.2.conv1.weight", "backbone.bottom_up.bn1.running_var"],
)
def test_weights_that_are_not_finite_are_named(models, name, value):
    model = copy.deepcopy(models(FASTER)[1])
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"NaN or infinite: {name}$"):
        optimize(model)


def test_what_is_no_detector_is_refused(models):
    cfg, model = models(FASTER)
    with pytest.raises(TypeError, match=r"optimize takes a detector, such as .*; got CfgNode"):
        optimize(cfg)
    with pytest.raises(ValueError, match=r"one of torch.float32, .*, got 'bf16'"):
        optimize(model, dtype="bf16")


def test_idempotent_and_inference_only(faster):
    fast = optimize(faster)
    assert is_optimized(fast) and not is_optimized(faster)
    assert optimize(fast) is fast
    assert fast.eval() is fast and fast.train(False) is fast
    with pytest.raises(RuntimeError, match="optimized for inference and cannot train"):
        fast.train()
    assert not fast.training


def test_copies_and_moves(faster):
    fast = optimize(faster)
    inputs = [_image()]
    expected = _detect(fast, inputs)[0]  # the weights are laid out now
    _assert_same(expected, _detect(copy.deepcopy(fast), inputs)[0])
    _assert_same(expected, _detect(fast.to("cpu"), inputs)[0])
    pickled = pickle.loads(pickle.dumps(fast))
    assert type(pickled) is type(fast) and is_optimized(pickled)
    _assert_same(expected, _detect(pickled, inputs)[0])
    with pytest.raises(RuntimeError, match="cannot train"):
        pickled.train()
    with pytest.raises(RuntimeError, match="cannot load weights"):
        pickled.load_state_dict({})


@TORCHS_OWN_WARNING
def test_copies_compile_what_the_model_compiled(faster):
    fast = optimize(faster, compile=True)
    for twin in (copy.deepcopy(fast), _pickled(fast)):
        compiled = [m for m in twin.modules() if m._compiled_call_impl is not None]
        assert len(compiled) == sum(len(stage) for stage in twin.backbone.bottom_up.stages)


def _count_in_a_process(fast, inputs, queue) -> None:
    torch.set_num_threads(1)
    queue.put(len(_detect(fast, inputs)[0]))


def test_a_spawned_process_runs_it(faster):
    fast, inputs, before = optimize(faster), [_image()], _state(faster)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_count_in_a_process, args=(fast, inputs, queue))
    process.start()
    assert queue.get(timeout=120) == len(_detect(fast, inputs)[0])
    process.join()
    _assert_unchanged(faster, before)  # its memory is not shared with the process


def test_runs_where_gradients_are_on(faster):
    fast = optimize(faster)
    with torch.enable_grad():
        plain = _detect(faster, [_image()])[0]
        made = fast([_image()])[0]["instances"]
        _assert_same(plain, made)
        x = torch.randn(1, 3, 64, 64, requires_grad=True)
        assert fast.backbone(x)["p2"].requires_grad


@pytest.mark.parametrize(
    "kwargs", [{"fold": False}, {"channels_last": False}, {"winograd": False}], ids=str
)
def test_each_part_alone(faster, kwargs):
    fast = optimize(faster, **kwargs)
    _assert_same(_detect(faster, [_image()])[0], _detect(fast, [_image()])[0])
    fused = [m for m in fast.modules() if isinstance(m, FusedConv2d)]
    assert bool(fused) == kwargs.get("fold", True)
    if "winograd" in kwargs:
        assert not any(m.use_winograd for m in fused)


def test_half_precision_by_request(faster):
    fast = optimize(faster, dtype=torch.bfloat16)
    made = _detect(fast, [_image()])[0]
    assert len(made) > 0 and made.scores.dtype == torch.float32
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, half = faster.backbone(x)["p2"], fast.backbone(x)["p2"]
    assert half.dtype == torch.float32
    error = (plain - half).abs().max() / plain.abs().max()
    assert 1e-4 < error < 0.1


def test_size_bucket_pads_further(faster):
    fast = optimize(faster, size_bucket=128)
    assert fast.backbone.size_divisibility == 128
    assert fast.preprocess_image([_image(120, 152)]).tensor.shape[-2:] == (128, 256)
    _detect(fast, [_image()])


def test_cuda_graphs_fall_back_on_the_cpu(faster):
    fast = optimize(faster, cuda_graphs=True)
    _assert_same(_detect(faster, [_image()])[0], _detect(fast, [_image()])[0])
    graphs = fast.backbone.run
    assert isinstance(graphs, CUDAGraphs) and not graphs._graphs


def test_a_size_that_cannot_be_captured_runs_eagerly(caplog):
    calls = []

    class Cuda(torch.Tensor):
        device = torch.device("cuda")

    def module(x):
        calls.append(x)
        raise RuntimeError("not capturable") if len(calls) == 1 else None

    graphs = CUDAGraphs(module)
    assert graphs._capture(torch.zeros(2).as_subclass(Cuda)) is None
    assert "running eagerly" in caplog.text


@TORCHS_OWN_WARNING
@pytest.mark.slow
def test_compiled_backbone_serves_all_sizes(faster):
    fast, plain = optimize(faster, compile=True), optimize(faster)
    counters["stats"].clear()
    for size in ((320, 512), (512, 352), (416, 416)):
        _assert_same(_detect(plain, [_image(*size)])[0], _detect(fast, [_image(*size)])[0])
    assert counters["stats"]["unique_graphs"] == 3  # a graph for each stage, none for a size


def test_arguments_are_checked(faster):
    with pytest.raises(ValueError, match="dtype must be .* got torch.int8"):
        optimize(faster, dtype=torch.int8)
    with pytest.raises(ValueError, match="multiple of 32, got 100"):
        optimize(faster, size_bucket=100)


def test_by_config(models):
    cfg, model = models(FASTER)
    assert is_optimized(optimize_by_config(model, cfg))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.OPTIMIZE.DTYPE = "bfloat16"
    cfg.MODEL.OPTIMIZE.SIZE_BUCKET = 64
    fast = optimize_by_config(model, cfg)
    assert fast.backbone.dtype == torch.bfloat16 and fast.backbone.size_divisibility == 64
    for key, value in [("DTYPE", "int8"), ("CHANNELS_LAST", "maybe")]:
        wrong = cfg.clone()
        wrong.MODEL.OPTIMIZE[key] = value
        with pytest.raises(ValueError, match=f"MODEL.OPTIMIZE.{key}.*'{value}'"):
            optimize_by_config(model, wrong)
    cfg.MODEL.OPTIMIZE.ENABLED = False
    assert optimize_by_config(model, cfg) is model


def test_other_models_of_detectron2():
    """RetinaNet on this backbone with stock FPN: its layers are kept in lists as well."""
    torch.manual_seed(0)
    cfg = get_cfg()
    hrnet_d2.add_hrnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2p_backbone"
    cfg.MODEL.HRNETV2P.WIDTH = 18
    cfg.MODEL.HRNETV2P.NECK.STRIDE = 2
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.RETINANET.PRIOR_PROB = 0.3
    model = build_model(cfg).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):  # activations stay finite
            nn.init.constant_(m.weight, 0.3)
    inputs = [_image(64, 64)]
    _assert_same(_detect(model, inputs)[0], _detect(optimize(model), inputs)[0])

    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    backbone = build_model(_with_rpn_levels(cfg)).eval()
    fast = optimize(backbone)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, made = backbone.backbone(x), fast.backbone(x)
    for level in plain:
        assert (made[level] - plain[level]).abs().max() < 2e-5 * plain[level].abs().max()
    assert all(isinstance(conv, FusedConv2d) for conv in fast.backbone.output_convs)


def _with_rpn_levels(cfg):
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
    return cfg


class _Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class _Padded(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(nn.functional.pad(x, (1, 1, 1, 1), value=1.0), weight, bias)


class _NormAndActivation(nn.BatchNorm2d):
    def forward(self, x):
        return nn.functional.leaky_relu(super().forward(x), 0.1)


class _Squared(nn.ReLU):
    def forward(self, x):
        return super().forward(x) ** 2


class _Doubled(ROIAlign):
    def forward(self, x, rois=None):
        return 2 * super().forward(x, torch.tensor([[0.0, 1, 2, 9, 8]]))


@pytest.mark.parametrize(
    "layers",
    [
        [_Standardized(3, 4, 3), nn.ReLU()],
        [_Padded(3, 4, 3)],
        [nn.Conv2d(3, 4, 3), _NormAndActivation(4)],
        [Conv2d(3, 4, 3, norm=_NormAndActivation(4))],
        [nn.Conv2d(3, 4, 3), _Squared()],
        [Conv2d(3, 4, 3, activation=_Squared())],
        [nn.Conv2d(3, 4, 3), _Doubled(3, 1.0, 0)],
    ],
    ids=lambda layers: "+".join(type(layer).__name__ for layer in layers),
)
def test_layers_with_a_forward_pass_of_their_own_keep_it(layers):
    model = nn.Sequential(*layers).eval()
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(optimize(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_convolution_of_two_sequences():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            conv = nn.Conv2d(3, 4, 3)
            self.activated, self.plain = nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv)

        def forward(self, x):
            return self.activated(x), self.plain(x)

    model = Two().eval()
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(optimize(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_backbone_with_a_forward_pass_of_its_own_keeps_it():
    class Halved(hrnet_d2.modeling.HRNet):
        def forward(self, x):
            return {name: level / 2 for name, level in super().forward(x).items()}

    model = nn.Module()
    model.backbone = Halved(4).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):  # activations stay finite
            nn.init.constant_(m.weight, 0.3)
    fast = optimize(model)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, made = model.backbone(x), fast.backbone(x)
    for level in plain:
        torch.testing.assert_close(made[level], plain[level], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["backbone", "backbone.bottom_up", "backbone.bottom_up.bn1", "backbone.reduction_conv"]
)
def test_hooks_are_called(faster, name):
    model = copy.deepcopy(faster)
    seen = []
    model.get_submodule(name).register_forward_hook(lambda *_: seen.append(name))
    fast = optimize(model)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        plain, made = model.backbone(x), fast.backbone(x)
    assert seen == [name, name]
    for level in plain:
        assert (made[level] - plain[level]).abs().max() < 2e-5 * plain[level].abs().max()


def test_group_norm_backbone_keeps_its_norms():
    torch.manual_seed(0)
    model = nn.Module()
    # In double precision: GroupNorm of the 2x2 maps here blows rounding up.
    backbone = hrnet_d2.modeling.HRNet(8, norm="GN").eval().double()
    model.backbone = backbone
    fast = optimize(model)
    assert sum(isinstance(m, nn.GroupNorm) for m in fast.modules()) == 305
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        plain, made = backbone(x), fast.backbone(x)
    for level in plain:
        torch.testing.assert_close(made[level], plain[level])


def test_roi_align_replaced(faster):
    poolers = optimize(faster).roi_heads.box_pooler.level_poolers
    assert len(poolers) == 4 and all(isinstance(p, FastROIAlign) for p in poolers)
