"""MODEL.DEVICE: what torch has is taken, and what it lacks is said."""

import logging

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

import hrnet_d2
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.devices import (
    DeviceError,
    available_device,
    check_device,
    explain_missing_operator,
    set_float32_precision,
)
from hrnet_d2.engine import Trainer
from hrnet_d2.layers.nms import batched_nms_in_double
from hrnet_d2.modeling import build_model
from tests.engine.tiny import tiny_config


@pytest.fixture
def devices(monkeypatch):
    """Pretend that torch sees these many GPUs and, or not, Apple's."""

    def pretend(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "mps:0"])
def test_devices_that_are_there_are_taken(tmp_path, devices, device):
    devices(cuda=2, mps=True)
    check_config(tiny_config(tmp_path, "MODEL.DEVICE", device))
    check_device(device)
    assert available_device(device) == device


@pytest.mark.parametrize("device, what", [("cuda", "CUDA"), ("cuda:1", "CUDA"), ("mps", "Apple")])
def test_devices_that_are_not_there(tmp_path, devices, caplog, device, what):
    devices()
    with caplog.at_level(logging.WARNING):
        assert available_device(device) == "cpu"
    assert what in caplog.text and "using cpu" in caplog.text
    # What builds a model itself, without the setup of a command, gets an error.
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE is '{device}'.*{what}.*'cpu'"):
        build_model(tiny_config(tmp_path, "MODEL.DEVICE", device))
    with pytest.raises(ConfigError, match="MODEL.DEVICE"):
        Trainer(tiny_config(tmp_path, "MODEL.DEVICE", device))


def test_a_number_that_is_too_high_is_an_error(devices):
    devices(cuda=2)
    for check in (available_device, check_device):
        with pytest.raises(ConfigError, match=r"'cuda:2'.*sees 2 .*'cuda:1'"):
            check("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "0", ""])
def test_what_is_no_device_is_an_error(tmp_path, device):
    with pytest.raises(ConfigError, match="MODEL.DEVICE is .*'mps'"):
        check_config(tiny_config(tmp_path, "MODEL.DEVICE", repr(device)))


@pytest.mark.parametrize(
    "error, word",
    [
        (
            NotImplementedError(
                "The operator 'torchvision::roi_align' is not currently implemented for the MPS "
                "device. If you want this op to be considered ..."
            ),
            "operator torchvision::roi_align on mps",
        ),
        (
            NotImplementedError("Could not run 'aten::nms' with arguments from the 'MPS' backend"),
            "operator aten::nms on mps",
        ),
        (
            TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
                "float64. Please use float32 instead."
            ),
            "float64 on mps",
        ),
    ],
)
def test_a_missing_operator_is_explained(error, word):
    with pytest.raises(DeviceError, match=f"{word}.*PYTORCH_ENABLE_MPS_FALLBACK=1.*DEVICE cpu"), \
            explain_missing_operator("mps"):  # fmt: skip
        raise error
    with pytest.raises(type(error)) as caught, explain_missing_operator("cpu"):
        raise error
    assert caught.value is error
    with pytest.raises(TypeError, match="an argument"), explain_missing_operator("mps"):
        raise TypeError("an argument is missing")


def test_training_and_predicting_explain_it(tmp_path, monkeypatch):
    """A backbone that fails as torch does on a device without the operator."""

    def fail(*_):
        raise NotImplementedError(
            "The operator 'aten::_foo' is not currently implemented for the XPU device."
        )

    cfg = tiny_config(tmp_path)
    trainer = Trainer(cfg)
    trainer.model.backbone.register_forward_pre_hook(fail)
    trainer.cfg = cfg.clone()
    trainer.cfg.MODEL.DEVICE = "xpu"
    with pytest.raises(DeviceError, match="aten::_foo on xpu"):
        trainer.train()
    trainer.checkpointer.save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    predictor = hrnet_d2.Predictor(cfg, optimize=False)
    predictor.model.backbone.register_forward_pre_hook(fail)
    predictor.cfg.defrost()
    predictor.cfg.MODEL.DEVICE = "xpu"
    with pytest.raises(DeviceError, match="aten::_foo on xpu"):
        predictor(np.zeros((64, 64, 3), np.uint8))


def test_nms_in_double_is_torchvisions():
    torch.manual_seed(0)
    corner = torch.rand(200, 2) * 50
    boxes = torch.cat([corner, corner + 10 + torch.rand(200, 2) * 20], 1)
    scores, groups = torch.rand(200), torch.randint(0, 3, (200,))
    keep = batched_nms_in_double(boxes, scores, groups, 0.5)
    assert torch.equal(keep, batched_nms(boxes.double(), scores.double(), groups, 0.5))
    assert 0 < len(keep) < 200


@pytest.fixture
def _precision_as_before():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("precision, tf32", [("highest", False), ("high", True), ("", None)])
@pytest.mark.usefixtures("_precision_as_before")
def test_float32_precision_holds_for_convolutions(tmp_path, precision, tf32):
    before = torch.backends.cudnn.allow_tf32
    set_float32_precision(tiny_config(tmp_path, "FLOAT32_PRECISION", precision))
    assert torch.backends.cudnn.allow_tf32 is (before if tf32 is None else tf32)
    if precision:
        assert torch.get_float32_matmul_precision() == precision
    with pytest.raises(ConfigError, match="FLOAT32_PRECISION"):
        check_config(tiny_config(tmp_path, "FLOAT32_PRECISION", "fast"))
