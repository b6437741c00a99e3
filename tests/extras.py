"""Tests that need optional libraries skip without them, with the extra's name."""

import importlib.util

import pytest
import torch

from hrnet_d2.export.settings import is_old

MODULES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "int8": ("nncf", "openvino", "onnx", "onnxscript"),
}


def needs_extra(extra: str) -> pytest.MarkDecorator:
    """A mark for tests that need everything in the extra."""
    missing = [name for name in MODULES.get(extra, ()) if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs the extra '{extra}'")


def needs_export(format: str) -> pytest.MarkDecorator:
    """A mark for tests that export to a format, or to "int8": its extra, and a PyTorch that can."""
    if format != "torchscript" and is_old(torch.__version__):
        return pytest.mark.skip(reason=f"needs a newer PyTorch to export to {format}")
    return needs_extra(format)
