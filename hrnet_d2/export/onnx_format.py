"""ONNX: the whole detector in one file, non-maximum suppression included."""

import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from .building import INPUTS

__all__ = ["OPSET", "write_onnx"]

# RoiAlign has the half-pixel convention from 16 on; PyTorch's exporter is written for 18.
OPSET = 18


def write_onnx(program: ExportedProgram, outputs: list[str], path: Path) -> None:
    """Write a detector as ONNX.

    Args:
        program: of the graph.
        outputs: names of its outputs.
        path: of the file. Weights beyond ONNX's 2 GiB go to a file beside it.
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
    converted.save(path)
