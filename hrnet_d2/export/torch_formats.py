"""PyTorch's own formats: TorchScript for C++ programs of Detectron2, and ``torch.export``."""

import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from .building import example_inputs
from .graph import DetectorGraph

__all__ = ["write_program", "write_torchscript"]


@torch.no_grad()
def write_torchscript(graph: DetectorGraph, path: Path) -> None:
    """Trace the graph; a program that loads it must register torchvision's operators."""
    with warnings.catch_warnings():
        # TorchScript is deprecated from torch 2.9 on, and the tracer warns of every number that
        # it takes for constant; the check of each export shows that these are.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(graph, example_inputs(graph), check_trace=False)
        torch.jit.save(traced, str(path))


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a ``torch.export`` program, for ``torch.export.load``."""
    torch.export.save(program, str(path))
