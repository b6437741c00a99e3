"""From a model to its graph, and from the graph to a ``torch.export`` program."""

import warnings
from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import nn
from torch.export import Dim, ExportedProgram

from hrnet_d2.modeling import FCOS, MaxIoUCascadeROIHeads
from hrnet_d2.modeling.roi_heads.detections import SoftSuppression

from .errors import ExportError
from .fcos_graph import FCOSGraph
from .graph import DetectorGraph
from .two_stage_graph import TwoStageGraph

__all__ = [
    "INPUTS",
    "build_graph",
    "example_inputs",
    "export_program",
    "output_names",
    "padded_sides",
]

INPUTS = ("images", "size", "score_thresh", "scale")
OUTPUTS = ("boxes", "scores", "classes", "masks")
# Of the example that the graph is recorded with, in pixels: no two sizes that occur in it agree
# by accident, and every level has more than one row and column.
EXAMPLE_SIZE = (150, 220)
DIVISOR = 32
MAX_SIDE = 8192


def build_graph(model: nn.Module, dtype: torch.dtype = torch.float32) -> DetectorGraph:
    """A copy of a detector as one graph, in eval mode.

    Args:
        model: plain, not optimized, on the CPU.
        dtype: of the layers.

    Raises:
        ExportError: if a part of the model has no form as a graph.
    """
    _check_supported(model)
    graph = FCOSGraph if isinstance(model, FCOS) else TwoStageGraph
    return graph(model, dtype).eval()


def _check_supported(model: Any) -> None:
    if isinstance(model, FCOS):
        return
    heads = getattr(model, "roi_heads", None)
    if not isinstance(heads, StandardROIHeads):
        raise ExportError(
            f"{type(model).__name__} cannot be exported: only FCOS and models with ROI heads of "
            "Faster, Mask, Cascade or Cascade Mask R-CNN or HTC can"
        )
    cascade = isinstance(heads.box_predictor, nn.ModuleList)
    if cascade and not isinstance(heads, MaxIoUCascadeROIHeads):
        raise ExportError(
            f"ROI heads {type(heads).__name__} cannot be exported: set MODEL.ROI_HEADS.NAME to "
            "MaxIoUCascadeROIHeads, which loads the same weights"
        )
    if type(model.proposal_generator).forward is not RPN.forward:
        raise ExportError(
            f"{type(model.proposal_generator).__name__} cannot be exported, only RPN can"
        )
    rule = getattr(heads, "detection_rule", None)
    if isinstance(getattr(rule, "suppress", None), SoftSuppression):
        raise ExportError(
            "Soft-NMS cannot be exported, since it is a loop over detections: set "
            "MODEL.ROI_HEADS.SOFT_NMS.ENABLED False, which changes the detections"
        )
    if heads.keypoint_on:
        raise ExportError("Keypoint heads cannot be exported: set MODEL.KEYPOINT_ON False")
    if heads.mask_on and heads.mask_pooler is None:
        raise ExportError("Masks need MODEL.ROI_MASK_HEAD.POOLER_TYPE to be exported")
    predictors = heads.box_predictor if cascade else [heads.box_predictor]
    if any(predictor.use_sigmoid_ce for predictor in predictors):
        raise ExportError("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE cannot be exported")


def output_names(graph: DetectorGraph) -> list[str]:
    """Of the graph's outputs, in order."""
    heads = getattr(graph.model, "roi_heads", None)
    return list(OUTPUTS if heads is not None and heads.mask_on else OUTPUTS[:3])


def example_inputs(graph: DetectorGraph) -> tuple[torch.Tensor, ...]:
    """Inputs to record the graph with: noise, at a low threshold, so that no step is empty."""
    height, width = EXAMPLE_SIZE
    padded = [-(-side // DIVISOR) * DIVISOR for side in EXAMPLE_SIZE]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, *padded), dtype=torch.uint8, generator=generator)
    inputs = [images, torch.tensor([height, width]), torch.tensor(0.001)]
    if graph.arithmetic.needs_scale:
        inputs.append(torch.tensor(0.75))
    return tuple(inputs)


def padded_sides() -> tuple[Any, Any]:
    """Height and width of a padded image as ``torch.export`` states them."""
    sides = (Dim(name, min=2, max=MAX_SIDE // DIVISOR) for name in ("rows", "columns"))
    height, width = (DIVISOR * side for side in sides)
    return height, width


@torch.no_grad()
def export_program(graph: DetectorGraph) -> ExportedProgram:
    """The graph for any height and width that are multiples of 32, from 64 on.

    Recorded without gradients, so that normalization does not fold in training's way, which would
    leave products on weights in the graph.
    """
    inputs = example_inputs(graph)
    height, width = padded_sides()
    shapes = ({2: height, 3: width}, *(None for _ in inputs[1:]))
    with warnings.catch_warnings():
        # Of torchvision's shape functions and Detectron2's anchors; not the caller's concern.
        warnings.simplefilter("ignore")
        return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
