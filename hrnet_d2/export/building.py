"""From a model to its graph, and from the graph to a ``torch.export`` program."""

import operator
import warnings
from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from hrnet_d2.modeling import FCOS, MaxIoUCascadeROIHeads
from hrnet_d2.modeling.roi_heads.detections import SoftSuppression

from .errors import ExportError
from .fcos_graph import FCOSGraph
from .graph import DetectorGraph
from .runtime import OUTPUTS
from .two_stage_graph import TwoStageGraph

__all__ = [
    "INPUTS",
    "build_graph",
    "example_inputs",
    "export_program",
    "images_shape",
    "let_nms_keep_few",
    "output_names",
]

INPUTS = ("images", "size", "score_thresh", "scale")
# Of the example that the graph is recorded with, in pixels: no two sizes that occur in it agree
# by accident, and every level, that of FCOS at stride 128 too, has more than one row and column.
EXAMPLE_SIZE = (250, 310)
# torch.export records no graph for any number of images from one image.
EXAMPLE_BATCH = 2
MAX_BATCH = 256
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
    masks = heads is not None and heads.mask_on
    return [*OUTPUTS, *(["masks"] if masks else [])]


def example_inputs(graph: DetectorGraph) -> tuple[torch.Tensor, ...]:
    """Inputs to record the graph with: noise, at a low threshold, so that no step is empty."""
    height, width = EXAMPLE_SIZE
    padded = [-(-side // DIVISOR) * DIVISOR for side in EXAMPLE_SIZE]
    generator = torch.Generator().manual_seed(0)
    shape = (EXAMPLE_BATCH, 3, *padded)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([height, width]).repeat(EXAMPLE_BATCH, 1)
    inputs = [images, sizes, torch.tensor(0.001)]
    if graph.arithmetic.needs_scale:
        inputs.append(torch.full((EXAMPLE_BATCH,), 0.75))
    return tuple(inputs)


def images_shape() -> dict[int, Any]:
    """Batch, height and width of padded images as ``torch.export`` states them."""
    sides = (Dim(name, min=2, max=MAX_SIDE // DIVISOR) for name in ("rows", "columns"))
    height, width = (DIVISOR * side for side in sides)
    return {0: Dim("batch", min=1, max=MAX_BATCH), 2: height, 3: width}


@torch.no_grad()
def export_program(graph: DetectorGraph) -> ExportedProgram:
    """The graph for any number of images whose height and width are multiples of 32, from 64 on.

    Recorded without gradients, so that normalization does not fold in training's way, which would
    leave products on weights in the graph.
    """
    inputs = example_inputs(graph)
    shape = images_shape()
    batch = {0: shape[0]}
    shapes = (shape, batch, None, batch)[: len(inputs)]
    with warnings.catch_warnings():
        # Of torchvision's shape functions and Detectron2's anchors; not the caller's concern.
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
    let_nms_keep_few(program)
    return program


def let_nms_keep_few(program: ExportedProgram) -> None:
    """Remove the checks that non-maximum suppression keeps two boxes at least, in place.

    torchvision's shape function of ``nms`` says so to the recorder, and the program would refuse
    every image in which there is one object or none. No step of the graphs depends on it.
    """
    graph = program.graph
    for check in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        condition: Any = check.args[0]
        if not isinstance(condition, Node) or condition.target is not operator.ge:
            continue
        length, least = condition.args
        if least == 2 and isinstance(length, Node) and _is_length_of_nms(length):
            graph.erase_node(check)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _is_length_of_nms(node: Node) -> bool:
    of = node.args[0] if node.target is torch.ops.aten.sym_size.int else None
    return isinstance(of, Node) and of.target is torch.ops.torchvision.nms.default
