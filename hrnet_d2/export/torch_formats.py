"""PyTorch's own formats: TorchScript for C++ programs of Detectron2, and ``torch.export``."""

import io
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from .building import example_inputs, images_shape
from .errors import ExportError
from .graph import DetectorGraph

__all__ = ["write_compiled_backbone", "write_program", "write_torchscript"]

# Of the compiled backbone against the model, relative to a level's largest value: rounding.
BACKBONE_TOLERANCE = 1e-4


@torch.no_grad()
def write_torchscript(graph: DetectorGraph, path: Path) -> None:
    """Trace the graph; a program that loads it must register torchvision's operators."""
    # By way of memory: torch's writer of files ends the process on a full disk.
    with warnings.catch_warnings():
        # TorchScript is deprecated from torch 2.9 on, and the tracer warns of every number that
        # it takes for constant; the check of each export shows that these are.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(graph, example_inputs(graph), check_trace=False)
        written = io.BytesIO()
        torch.jit.save(traced, written)
    path.write_bytes(written.getbuffer())


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a ``torch.export`` program, for ``torch.export.load``."""
    written = io.BytesIO()
    torch.export.save(program, written)
    path.write_bytes(written.getbuffer())


class _Levels(nn.Module):
    """A backbone that returns its levels in order, as C++ has no dict of tensors to return."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.backbone(images).values())


@torch.no_grad()
def write_compiled_backbone(model: nn.Module, path: Path) -> float:
    """Backbone and neck compiled by AOTInductor, for C++ (``AOTIModelPackageLoader``) and Python.

    It takes normalized images (N, 3, H, W), float32, H and W multiples of 32 from 64 on, and
    returns the levels, finest first. It runs on processors like the one that it was made on.

    Args:
        model: a detector in eval mode on the CPU.
        path: of the package, with the suffix .pt2.

    Returns:
        The largest difference to the model at two other sizes, relative to a level's largest
        value.

    Raises:
        ExportError: if there is no C++ compiler, or the result differs from the model's.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    levels = _Levels(model.get_submodule("backbone")).eval()
    example = (torch.rand(2, 3, 160, 224),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            levels, example, dynamic_shapes=(images_shape(),), strict=False
        )
        try:
            aoti_compile_and_package(program, package_path=str(path))
        except (RuntimeError, OSError) as error:
            raise ExportError(
                f"AOTInductor could not compile the backbone, which needs a C++ compiler: {error}"
            ) from error
        compiled = aoti_load_package(str(path))
    worst = 0.0
    for batch, *size in ((1, 192, 320), (3, 256, 128)):
        images = torch.rand(batch, 3, *size)
        for made, expected in zip(compiled(images), levels(images), strict=True):
            worst = max(worst, float((made - expected).abs().max() / expected.abs().max()))
    if worst > BACKBONE_TOLERANCE:
        raise ExportError(f"The compiled backbone differs from the model by {worst:.1e}")
    return worst
