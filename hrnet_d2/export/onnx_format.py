"""ONNX: the whole detector in one file, non-maximum suppression included."""

import warnings

import torch
from torch.export import ExportedProgram

from .building import INPUTS

__all__ = ["OPSET", "convert"]

# RoiAlign has the half-pixel convention from 16 on; PyTorch's exporter is written for 18.
OPSET = 18


def convert(program: ExportedProgram, outputs: list[str]) -> "torch.onnx.ONNXProgram":
    """The program as ONNX. Weights beyond ONNX's 2 GiB are saved in a file beside the graph's.

    Args:
        program: of the graph.
        outputs: names of its outputs.
    """
    count = len(program.graph_signature.user_inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's shape functions, once more
        converted = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(INPUTS[:count]),
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert converted is not None
    return converted
