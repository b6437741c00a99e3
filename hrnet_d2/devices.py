"""Devices of torch: whether one is there, and what one cannot compute."""

import contextlib
import logging
import re
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode

from .config_file import ConfigError

__all__ = [
    "DeviceError",
    "available_device",
    "check_device",
    "explain_missing_operator",
    "set_float32_precision",
]

logger = logging.getLogger(__name__)

_NAMES = {"cuda": "CUDA GPU", "mps": "GPU of Apple (MPS)", "xpu": "XPU of Intel"}


class DeviceError(RuntimeError):
    """A device lacks an operator or a type of numbers that the model needs."""


def available_device(device: str) -> str:
    """``device``, or "cpu" (and a warning) if this machine or this torch has none of its kind.

    Raises:
        ConfigError: if there are devices of this kind, but fewer than its number says.
    """
    kind = device.partition(":")[0]
    if kind in _NAMES and not _count(kind):
        logger.warning(
            "MODEL.DEVICE is %s but torch %s sees no %s: using cpu",
            *(device, torch.__version__, _NAMES[kind]),
        )
        return "cpu"
    check_device(device)
    return device


def check_device(device: str) -> None:
    """Check that torch can compute on a device.

    Raises:
        ConfigError: if it cannot: what there is, and what to set.
    """
    kind, _, number = device.partition(":")
    if kind not in _NAMES:
        return  # "cpu", or one that torch itself knows or refuses
    count = _count(kind)
    if not count:
        raise ConfigError(
            f"MODEL.DEVICE is {device!r}, but torch {torch.__version__} sees no {_NAMES[kind]}: "
            "set it to 'cpu', or install a torch for this device"
        )
    if number and int(number) >= count:
        last = f"{kind}:{count - 1}"
        raise ConfigError(
            f"MODEL.DEVICE is {device!r}, but torch sees {count} devices of this kind: the last is "
            f"{last!r}"
        )


def set_float32_precision(cfg: CfgNode) -> None:
    """Apply ``FLOAT32_PRECISION`` to matrix products, as Detectron2 does, and to convolutions.

    PyTorch lets the convolutions of NVIDIA's GPUs round their inputs to TF32 (10 bits of mantissa)
    whatever Detectron2 sets: "highest" turns that off, "high" and "medium" turn it on, and ""
    leaves PyTorch as it is. Holds for the whole process.
    """
    precision = cfg.FLOAT32_PRECISION
    if precision:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def _count(kind: str) -> int:
    """How many devices of a kind torch can use."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)  # torch.xpu is missing from old builds
    return module.device_count() if module is not None and module.is_available() else 0


@contextlib.contextmanager
def explain_missing_operator(device: str) -> Iterator[None]:
    """Replace torch's errors about what a device cannot compute by one that says what to set.

    Args:
        device: ``MODEL.DEVICE``.

    Raises:
        DeviceError: instead of such an error; others pass as they are.
    """
    kind = device.partition(":")[0]
    try:
        yield
    except (NotImplementedError, TypeError) as error:
        lacks = _lacks(str(error)) if kind in ("mps", "xpu") else ""
        if not lacks:
            raise
        fallback = ""
        if kind == "mps":
            fallback = "set PYTORCH_ENABLE_MPS_FALLBACK=1 in the environment before Python starts, "
            fallback += "so that the CPU computes it, or "
        raise DeviceError(
            f"torch {torch.__version__} has no {lacks} on {kind}: {fallback}set MODEL.DEVICE cpu"
        ) from error


def _lacks(text: str) -> str:
    """What an error of torch says is missing; empty if it is another error."""
    found = re.search(r"The operator '([\w:.]+)' is not currently implemented", text)
    found = found or re.search(r"Could not run '([\w:.]+)' with arguments from the", text)
    if found:
        return f"operator {found[1]}"
    return "float64" if "support float64" in text else ""
