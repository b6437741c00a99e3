"""OpenVINO's intermediate representation, converted from ONNX."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["convert", "save"]


def convert(converted: "torch.onnx.ONNXProgram") -> Any:
    """The graph, given as ONNX, as ``openvino.Model``; through a file, which is deleted again."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="hrnet_d2_onnx_") as part:
        source = Path(part) / "detector.onnx"
        try:
            converted.save(source)
        except OSError as error:  # a full disk, which is not that of the export
            error.filename = error.filename or str(source)
            raise
        return openvino.convert_model(str(source))


def save(model: Any, path: Path, half_weights: bool) -> None:
    """Write ``path``, with the suffix .xml, and the weights beside it.

    Args:
        model: ``openvino.Model``.
        path: of the graph.
        half_weights: store the weights as float16; a CPU computes with them in float32.
    """
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=half_weights)
