"""OpenVINO runs the dense part of detectors: the same detections; errors where it cannot."""

import copy
import functools
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.inference import choosing, openvino_backend
from hrnet_d2.inference.openvino_backend import BackendError
from hrnet_d2.inference.optimize import optimize, optimize_by_config
from hrnet_d2.modeling import build_model
from tests.extras import needs_extra
from tests.inference.test_optimize import CASES, FASTER, _assert_same, _detect, _image
from tests.parity import load_case

needs_openvino = needs_extra("openvino")


@functools.cache
def build(case_name, folder):
    case = load_case(case_name)
    cfg = model_zoo.get_config(CASES[case_name])
    cfg.defrost()
    case.configure(cfg)
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60
    model = build_model(cfg).eval()
    Checkpointer(model).load(case.save_checkpoint(folder / f"{case_name}.pth"))
    return cfg, model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    yield lambda name: build(name, folder)
    build.cache_clear()


@pytest.fixture(scope="module")
def faster(models):
    model = models(FASTER)[1]
    return model, optimize(model, backend="openvino")


@needs_openvino
@pytest.mark.parametrize("case_name", [FASTER, "htc_hrnetv2p_w18", "fcos_hrnetv2p_w18"])
def test_detections_are_the_same(models, case_name):
    cfg, model = models(case_name)
    cfg = cfg.clone()
    cfg.MODEL.OPTIMIZE.BACKEND = "openvino"
    fast = optimize_by_config(model, cfg)
    # The second size twice, since outputs of known sizes have memory of their own; then a batch.
    for inputs in (
        [_image()],
        [_image(128, 160, 1)],
        [_image(128, 160, 2)],
        [_image(96, 128, 3), _image(128, 96, 4)],
    ):
        for plain, made in zip(_detect(model, inputs), _detect(fast, inputs), strict=True):
            assert len(plain)
            _assert_same(plain, made)


@needs_openvino
def test_maps_stay_when_the_next_image_comes(faster):
    model, fast = faster
    images = [torch.randn(1, 3, 128, 160) for _ in range(3)]
    with torch.no_grad():
        maps = [fast.backbone(image) for image in images]
        for image, given in zip(images, maps, strict=True):
            for name, right in model.backbone(image).items():
                torch.testing.assert_close(given[name], right, rtol=1e-3, atol=1e-3)


@needs_openvino
def test_small_images_threads_copies_and_pickles(faster):
    model, fast = faster
    small = [_image(32, 160)]  # fewer rows than the coarsest level needs
    _assert_same(_detect(model, small)[0], _detect(fast, small)[0])
    images = [[_image(64 + 32 * (i % 2), 96, i)] for i in range(8)]
    expected = [_detect(fast, image)[0] for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: _detect(fast, image)[0], images))
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        found += [_detect(other, image)[0] for image in images]
    for right, given in zip(expected * 3, found, strict=True):
        assert torch.equal(right.pred_boxes.tensor, given.pred_boxes.tensor)
        assert torch.equal(right.scores, given.scores)


@needs_openvino
def test_images_that_are_padded_further(models):
    model = models(FASTER)[1]
    fast = optimize(model, backend="openvino", size_bucket=128)
    assert openvino_backend.is_connected(fast) and not openvino_backend.is_connected(model)
    _assert_same(_detect(model, [_image(128, 256)])[0], _detect(fast, [_image(128, 256)])[0])


@needs_openvino
def test_bfloat16_is_close(models):
    model = models(FASTER)[1]
    fast = optimize(model, backend="openvino", dtype=torch.bfloat16)
    with torch.no_grad():
        x = torch.randn(1, 3, 128, 160)
        right, given = model.backbone(x), fast.backbone(x)
    for name in right:
        error = (right[name] - given[name]).abs().max() / right[name].abs().max()
        assert error < 0.05
    assert _detect(fast, [_image()])[0].scores.dtype == torch.float32


@needs_openvino
def test_changed_weights_are_noticed(models):
    model = copy.deepcopy(models(FASTER)[1])
    fast = optimize(model, backend="openvino")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    with pytest.raises(RuntimeError, match="have changed since"):
        _detect(fast, [_image()])


@needs_openvino
def test_a_wrong_conversion_is_refused(models, monkeypatch):
    model = models(FASTER)[1]
    call = openvino_backend.OpenVINONetwork.__call__
    monkeypatch.setattr(
        openvino_backend.OpenVINONetwork,
        "__call__",
        lambda self, x: [output * 1.01 for output in call(self, x)],
    )
    with pytest.raises(BackendError, match="relative error of 0.01"):
        optimize(model, backend="openvino")


@needs_openvino
@pytest.mark.parametrize("call", ["OpenVINONetwork.__call__", "PRECISIONS"])
def test_auto_runs_pytorch_where_openvino_fails(models, monkeypatch, call, caplog):
    """A graph that cannot be compiled or run, as by a version or processor of other abilities."""
    if call == "PRECISIONS":
        monkeypatch.setitem(openvino_backend.PRECISIONS, None, "no such type")
    else:
        monkeypatch.setattr(openvino_backend.OpenVINONetwork, "__call__", _fail)
    fast = optimize(models(FASTER)[1], backend="auto")
    assert not hasattr(fast.backbone, "network")
    assert "PyTorch runs the network: OpenVINO cannot" in caplog.text


def _fail(*_):
    raise RuntimeError("no kernel")


@needs_openvino
def test_a_copy_in_another_type_and_an_image_with_gradients(faster):
    model, fast = faster
    x = torch.randn(1, 3, 128, 160, requires_grad=True)
    maps = fast.backbone(x)
    assert not any(level.requires_grad for level in maps.values())
    with torch.no_grad():
        right = copy.deepcopy(model).double().backbone(x.double())
        given = copy.deepcopy(fast).double().backbone(x.double())
    for name, level in right.items():
        assert given[name].dtype == torch.float64
        torch.testing.assert_close(given[name], level, rtol=1e-5, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize("slower", [1e-3, 1e3], ids=["OpenVINO is slower", "PyTorch is slower"])
def test_auto_measures(faster, monkeypatch, slower):
    measure = choosing.dense_seconds

    def seconds(model):
        runs_openvino = hasattr(model.backbone, "network")
        return measure(model) * (1.0 if runs_openvino else slower)

    monkeypatch.setattr(choosing, "dense_seconds", seconds)
    fast = optimize(faster[0], backend="auto")
    assert hasattr(fast.backbone, "network") == (slower > 1)


def test_without_openvino(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    model = models(FASTER)[1]
    with pytest.raises(BackendError, match=r"pip install 'hrnet_d2\[openvino\]'"):
        optimize(model, backend="openvino")
    image = [_image()]
    _assert_same(_detect(model, image)[0], _detect(optimize(model, backend="auto"), image)[0])


def test_arguments(models):
    model = models(FASTER)[1]
    with pytest.raises(ValueError, match="backend must be one of .*'openvino'.* got 'tensorrt'"):
        optimize(model, backend="tensorrt")
    with pytest.raises(ValueError, match="compile and cuda_graphs are of backend 'torch'"):
        optimize(model, backend="openvino", compile=True)
    with pytest.raises(BackendError, match="a backbone, not Conv2d"):
        openvino_backend.connect(nn.Conv2d(3, 3, 1), None)
