"""CUDA graphs: what is captured computes what the model computes, for any batch and size.

Without a GPU a stand-in replays: it calls the function again on the same static inputs, so that
everything but the capture itself is tested. On a GPU the same tests capture.
"""

import copy
import functools
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import batched_nms

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.inference.cuda_graphs import CUDAGraphs
from hrnet_d2.inference.dense import Store, nested, structure_of, tensors_of
from hrnet_d2.inference.fused_hrnet import _at_once
from hrnet_d2.inference.gpu_input import GPUInput
from hrnet_d2.inference.graphed import GraphedBoxes
from hrnet_d2.inference.optimize import optimize
from hrnet_d2.inference.parallel_nms import parallel_nms, top_detections
from hrnet_d2.inference.rewrite import rewrite_for_inference
from hrnet_d2.inference.roi_pooler import StaticROIPooler
from hrnet_d2.modeling.backbone.hrfpn import upsample
from hrnet_d2.modeling.meta_arch.fcos.inference import Candidates
from tests.inference.test_optimize import CASES, FASTER, _assert_same, _detect, _image
from tests.parity import load_case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class _Replayed:
    """Of a captured function: calls it again and writes over its outputs."""

    def __init__(self, call, outputs):
        self.call, self.outputs, self.count = call, outputs, 0

    def replay(self):
        self.count += 1
        for old, new in zip(self.outputs, tensors_of(self.call()), strict=True):
            old.copy_(new)


@pytest.fixture
def captured(monkeypatch):
    """Names of the functions that were captured, with the shapes of their first inputs."""
    seen = []
    capture = CUDAGraphs._capture

    def stand_in(self, *inputs, **constants):
        seen.append((type(getattr(self.function, "__self__", self.function)), inputs[0].shape))
        if DEVICE == "cuda":
            made = capture(self, *inputs, **constants)
            assert made is not None
            return made
        static = [x.clone() for x in inputs]
        call = functools.partial(self.function, *static, **constants)
        outputs = call()
        flat = tensors_of(outputs)
        return _Replayed(call, flat), static, flat, structure_of(outputs)

    monkeypatch.setattr(CUDAGraphs, "_capture", stand_in)
    if DEVICE == "cpu":
        monkeypatch.setattr(CUDAGraphs, "applies", lambda self, x: not torch.is_grad_enabled())
        monkeypatch.setattr(StaticROIPooler, "forward", StaticROIPooler.pool)
        plain = optimize.__globals__["rewrite_for_inference"]

        def rewritten(model, **kwargs):
            model = plain(model, **kwargs)
            optimize.__globals__["pool_without_waiting"](model)
            return model

        monkeypatch.setitem(optimize.__globals__, "rewrite_for_inference", rewritten)
    return seen


@functools.cache
def _model(name, folder):
    case = load_case(name)
    cfg = model_zoo.get_config(CASES[name])
    cfg.defrost()
    case.configure(cfg)
    cfg.MODEL.DEVICE = DEVICE
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60
    model = build_model(cfg).eval()
    Checkpointer(model).load(case.save_checkpoint(folder / f"{name}.pth"))
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield lambda name: _model(name, folder)
    torch.backends.cudnn.allow_tf32 = before
    _model.cache_clear()


def test_threads_take_turns(captured):
    def double(x):
        time.sleep(0.001)
        return 2 * x

    run = CUDAGraphs(double)
    inputs = [torch.full((3,), float(i), device=DEVICE) for i in range(60)]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        found = list(pool.map(torch.no_grad()(run), inputs))
    for x, y in zip(inputs, found, strict=True):
        assert torch.equal(y, 2 * x)
    assert len(captured) == 1
    for other in (copy.deepcopy(run), pickle.loads(pickle.dumps(CUDAGraphs(torch.neg)))):
        assert not other._graphs


BATCHES = [
    [_image()],
    [_image(seed=1)],
    [_image(60, 90, seed=2), _image(seed=3)],
    [_image(96, 64, seed=4)],
]


@pytest.mark.parametrize("name", CASES)
def test_detections_of_every_family_stay(models, captured, name):
    model = models(name)
    fast = optimize(model, cuda_graphs=True)
    for inputs in BATCHES:
        pairs = zip(_detect(model, inputs), _detect(fast, inputs), strict=True)
        for plain, made in pairs:
            _assert_same(plain.to("cpu"), made.to("cpu"))
    dense = [shape for kind, shape in captured if kind.__name__ == "_Dense"]
    boxes = [shape for kind, shape in captured if kind is GraphedBoxes]
    assert dense == [(1, 3, 64, 96), (2, 3, 64, 96), (1, 3, 96, 64)]
    # A cascade clips to the images' sizes between its stages, so those are constants of a graph.
    assert boxes == ([] if "fcos" in name else [(1, 60, 4), (2, 60, 4), (1, 60, 4)])


def test_maps_stay_when_the_next_image_comes(models, captured):
    model = models(FASTER)
    fast = optimize(model, cuda_graphs=True)
    images = [torch.randn(1, 3, 64, 96, device=DEVICE) for _ in range(3)]
    with torch.no_grad():
        maps = [fast.backbone(image) for image in images]
        for image, given in zip(images, maps, strict=True):
            for name, right in model.backbone(image).items():
                torch.testing.assert_close(given[name], right, rtol=1e-3, atol=1e-3)
    assert len(captured) == 1


def test_copies_capture_again(models, captured):
    model = models(FASTER)
    fast = optimize(model, cuda_graphs=True)
    expected = _detect(fast, BATCHES[0])[0]
    twins = copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))
    for twin in twins:
        assert not twin.backbone.run._graphs
        _assert_same(expected.to("cpu"), _detect(twin, BATCHES[0])[0].to("cpu"))
        assert twin.backbone.run._graphs
        assert twin.proposal_generator.forward.rpn is twin.proposal_generator
        assert twin.roi_heads._forward_box.heads is twin.roi_heads


def test_a_moved_model_forgets_its_graphs(models, captured):
    fast = optimize(models(FASTER), cuda_graphs=True)
    _detect(fast, BATCHES[0])
    fast.to(DEVICE)
    assert not fast.backbone.run._graphs and not fast.roi_heads._forward_box.run._graphs
    _detect(fast, BATCHES[0])


def test_only_the_graphs_used_last_are_kept(captured):
    graphs = CUDAGraphs(lambda x: x + 1, max_sizes=2)
    with torch.no_grad():
        for n in (1, 2, 1, 3, 1, 2):
            assert torch.equal(graphs(torch.ones(n, device=DEVICE)).cpu(), torch.full((n,), 2.0))
    assert len(captured) == 4  # 2 was dropped for 3
    with torch.enable_grad():
        graphs(torch.ones(7, device=DEVICE))
    assert len(captured) == 4


def test_proposals_that_are_not_finite_or_empty_are_dropped(models, captured):
    model = copy.deepcopy(models(FASTER))
    with torch.no_grad():
        # Of the three anchors of a location, one is infinitely far and another has no width.
        bias = model.proposal_generator.rpn_head.anchor_deltas.bias
        bias[0], bias[6] = 3e38, -1e9
    fast = optimize(model, cuda_graphs=True)
    with torch.no_grad():
        for inputs in BATCHES:
            images = model.preprocess_image(inputs)
            found = []
            for m in (model, fast):
                proposals, _ = m.proposal_generator(images, m.backbone(images.tensor), None)
                found.append(proposals)
            for a, b in zip(*found, strict=True):
                assert len(a) == len(b) > 0
                torch.testing.assert_close(
                    a.proposal_boxes.tensor, b.proposal_boxes.tensor, rtol=0, atol=0.02
                )


@pytest.mark.parametrize("kind, ratio", [("ROIAlignV2", 0), ("ROIAlign", 0), ("ROIAlignV2", 2)])
def test_pooler_is_detectron2s_to_the_bit(kind, ratio):
    generator = torch.Generator().manual_seed(0)
    pooler = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16], ratio, kind, canonical_box_size=64)
    maps = [torch.randn(2, 5, 64 // 2**i, 96 // 2**i, generator=generator) for i in range(3)]
    corners = torch.rand(40, 2, generator=generator) * torch.tensor([300.0, 200.0])
    sizes = 2 ** (torch.rand(40, 2, generator=generator) * 7)
    boxes = torch.cat([corners, corners + sizes], dim=1)
    for lists in ([boxes[:25], boxes[25:]], [boxes, boxes[:0]], [boxes[:0], boxes[:0]]):
        lists = [Boxes(b) for b in lists]
        expected = pooler(maps, lists)
        assert torch.equal(StaticROIPooler(pooler).pool(maps, lists), expected)
        assert torch.equal(StaticROIPooler(pooler)(maps, lists), expected)
    single = ROIPooler(7, [1 / 4], ratio, kind)
    lists = [Boxes(boxes[:25]), Boxes(boxes[25:])]
    assert torch.equal(StaticROIPooler(single).pool(maps[:1], lists), single(maps[:1], lists))


@pytest.mark.parametrize("name", ["htc_hrnetv2p_w18", "fcos_hrnetv2p_w18"])
def test_input_is_detectron2s_to_the_bit(models, name):
    model = models(name)
    for inputs in BATCHES:
        expected, made = model.preprocess_image(inputs), GPUInput(model)(inputs)
        assert torch.equal(expected.tensor, made.tensor)
        assert expected.image_sizes == made.image_sizes


def test_arrangements_survive():
    tensors = [torch.tensor(i) for i in range(7)]
    made = {"a": [tensors[0], (tensors[1],)], "b": Candidates(*tensors[2:6]), "c": tensors[6]}
    flat = tensors_of(made)
    assert [int(t) for t in flat] == list(range(7))
    again = nested(structure_of(made), iter(flat))
    assert isinstance(again["b"], Candidates) and isinstance(again["a"][1], tuple)
    assert again["a"][0] is tensors[0] and again["c"] is tensors[6]


def test_a_store_gives_only_what_was_computed_of_these_maps():
    store, maps = Store(), [torch.zeros(1), torch.zeros(1)]
    store.keep(maps, "outputs")
    assert store.take([maps[0], maps[1].clone()]) is None
    assert store.take(maps) is None  # it was given away
    store.keep(maps, "outputs")
    assert store.take(maps) == "outputs"


def test_wider_channels_change_nothing(models):
    model = models(FASTER)
    x = torch.randn(1, 3, 64, 96, device=DEVICE)
    with torch.no_grad():
        plain = rewrite_for_inference(copy.deepcopy(model.backbone))
        wide = rewrite_for_inference(copy.deepcopy(model.backbone), channel_multiple=8)
        channels = {m.weight.shape[0] for m in wide.modules() if isinstance(m, nn.Conv2d)}
        assert {24, 40} <= channels and not {18, 36} & channels
        for a, b in (plain(x), wide(x)), (plain.bottom_up(x), _alone(model)(x)):
            assert list(a) == list(b)
            for name in a:
                torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-4)


def _alone(model):
    return rewrite_for_inference(copy.deepcopy(model.backbone.bottom_up), channel_multiple=8)


def _random_boxes(number, seed, images=2):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, number, 2, generator=generator) * 60
    sides = 5 + torch.rand(images, number, 2, generator=generator) * 30
    scores = torch.rand(images, number, generator=generator)
    classes = torch.randint(0, 3, (images, number), generator=generator)
    return torch.cat([corners, corners + sides], dim=2), scores, classes


@pytest.mark.parametrize("number, most", [(300, 20), (40, 100), (5, 5)])
def test_parallel_suppression_is_the_usual_one(number, most):
    boxes, scores, classes = _random_boxes(number, seed=number)
    valid = scores > 0.1
    found = top_detections(boxes, scores, classes, valid, iou=0.5, most=most)
    for i in range(len(boxes)):
        keep = valid[i].nonzero()[:, 0]
        usual = batched_nms(boxes[i, keep], scores[i, keep], classes[i, keep], 0.5)
        expected = keep[usual][:most]
        count = int(found[3][i])
        assert count == len(expected) > 0
        assert torch.equal(found[0][i, :count], boxes[i, expected])
        assert torch.equal(found[1][i, :count], scores[i, expected])
        assert torch.equal(found[2][i, :count], classes[i, expected])


def test_what_takes_the_usual_algorithm_is_said(monkeypatch):
    # A chain: each box suppresses the next alone, so that every second one stays.
    x = torch.arange(60.0)[None, :, None] * 4
    chain = torch.cat([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], dim=2)
    scores = torch.linspace(1, 0.1, 60)[None]
    group = torch.zeros(1, 60, dtype=torch.long)
    everything = torch.ones_like(scores, dtype=torch.bool)
    for rounds, settled in ((60, True), (20, False)):
        stays, done = parallel_nms(chain, everything, 0.4, rounds=rounds)
        assert bool(done) == settled
        assert not settled or stays[0].tolist() == [i % 2 == 0 for i in range(60)]
    *_, number = top_detections(chain, scores, group, everything, iou=0.4, most=100)
    assert number.tolist() == [-1]
    # Too many candidates, unless the best of them give as many detections as are wanted.
    monkeypatch.setattr("hrnet_d2.inference.parallel_nms.CANDIDATES", 8)
    few = everything & (torch.arange(60) < 8)
    for valid, most, expected in ((few, 9, 4), (everything, 4, 4), (everything, 5, -1)):
        *_, number = top_detections(chain, scores, group, valid, iou=0.4, most=most)
        assert number.tolist() == [expected]


def test_images_that_take_the_usual_algorithm_get_it(models, captured, monkeypatch):
    for name in (FASTER, "fcos_hrnetv2p_w18"):
        model = models(name)
        for key, value in (("ROUNDS", 0), ("CANDIDATES", 5)):
            monkeypatch.setattr(f"hrnet_d2.inference.parallel_nms.{key}", value)
            fast = optimize(model, cuda_graphs=True)
            for inputs in BATCHES[1:3]:
                pairs = zip(_detect(model, inputs), _detect(fast, inputs), strict=True)
                for plain, made in pairs:
                    _assert_same(plain.to("cpu"), made.to("cpu"))


@pytest.mark.parametrize("multiple", [1, 8])
def test_mixing_as_a_gpu_does_is_the_same(models, multiple):
    backbone = copy.deepcopy(models(FASTER).backbone)
    nn.init.normal_(backbone.reduction_conv.bias)
    fast = rewrite_for_inference(backbone, channel_multiple=multiple)
    with torch.no_grad():
        features = fast.bottom_up(torch.randn(2, 3, 64, 96, device=DEVICE))
        maps = [features[name] for name in fast.in_features]
        expected = fast.mix[0](maps[0])
        for i, x in enumerate(maps[1:], 1):
            expected = expected + upsample(fast.mix[i](x), 2**i)
        torch.testing.assert_close(fast._mix_concatenated(maps), expected, rtol=1e-3, atol=1e-4)


def test_calls_that_are_captured_have_streams_of_their_own():
    if DEVICE == "cpu":
        pytest.skip("needs a GPU")
    seen = []
    x = torch.ones(3, device=DEVICE)

    def call(i):
        seen.append(torch.cuda.current_stream())
        return x * i

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = _at_once([functools.partial(call, i) for i in range(3)])
    graph.replay()
    assert [float(m[0]) for m in made] == [0, 1, 2] and len(set(seen)) == 3
