"""OpenVINO's intermediate representation, converted from ONNX."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["write"]


def write(converted: "torch.onnx.ONNXProgram", path: Path, half_weights: bool) -> None:
    """Write ``path``, and the weights beside it.

    Args:
        converted: the graph as ONNX.
        path: of the graph, with the suffix .xml.
        half_weights: store the weights as float16; a CPU computes with them in float32.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix=".onnx.", dir=path.parent) as folder:
        source = Path(folder) / "detector.onnx"
        converted.save(source)
        model = openvino.convert_model(str(source))
        openvino.save_model(model, str(path), compress_to_fp16=half_weights)
