"""Tests that need optional libraries skip without them, with the extra's name."""

import importlib.util

import pytest

MODULES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "int8": ("nncf", "openvino", "onnx", "onnxscript"),
}


def needs_extra(extra: str) -> pytest.MarkDecorator:
    """A mark for tests that need everything in the extra."""
    missing = [name for name in MODULES.get(extra, ()) if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs the extra '{extra}'")
