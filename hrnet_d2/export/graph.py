"""What the graphs of all families share: input, clipping, non-maximum suppression.

A graph takes a padded image to detections without branches on values: ``torch.export`` and the
TorchScript tracer follow tensors only, so a step that depends on how many boxes are left, or on
whether all values are finite, cannot be a Python branch. The layers are the model's own; what is
written anew are the selections between them, in a form that every runtime has.

R = number of boxes, D = number of detections.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import nms

from hrnet_d2.modeling.mmdet1.boxes import to_network, to_original
from hrnet_d2.modeling.mmdet1.fcos import MMDet1FCOS
from hrnet_d2.modeling.mmdet1.meta_arch import MMDet1RCNN

__all__ = ["DetectorGraph", "bounded", "grouped_nms", "top_padded"]


def grouped_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor,
    num_groups: int,
    side: torch.Tensor,
    iou: float,
) -> torch.Tensor:
    """Non-maximum suppression within each group, by one call of the runtime's operator.

    Groups are moved apart on a square grid. In a row, as torchvision moves them, 80 classes of a
    large image would reach coordinates of 100,000 pixels, where float32 has steps of 0.008 pixels.

    Args:
        boxes: (R, 4) within 0 ... ``side``.
        scores: (R,).
        groups: (R,) integers from 0 to ``num_groups`` - 1.
        side: () longest side of the image.
        iou: above which the box of the lower score is suppressed.

    Returns:
        Indices of the boxes that stay, sorted by descending score.
    """
    columns = 1
    while columns * columns < num_groups:
        columns += 1
    cell = torch.stack((groups % columns, groups // columns), dim=1).float() * (side + 1.0)
    return bounded(nms(boxes + cell.repeat(1, 2), scores, iou))


def bounded(x: torch.Tensor) -> torch.Tensor:
    """``x`` itself, (n, ...) with a number of rows that only values tell.

    ``torch.export`` takes any number up to 2**63 - 1 for possible, and writes checks on products
    with it that no runtime's integers can hold.
    """
    if not torch.jit.is_tracing():
        torch._check(x.shape[0] < 2**31)
    return x


class Arithmetic:
    """Clipping, and the image on which detections suppress each other, as MMDetection 2.x."""

    # Whether the graph has the input "scale".
    needs_scale = False

    def clip(self, boxes: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """Boxes (..., 4) in an image of ``size`` (2,), height and width."""
        height, width = size.unbind()
        limits = torch.stack((width, height, width, height))
        return torch.minimum(boxes.clamp(min=0), limits)

    def to_suppression(self, boxes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """From pixels of the input to those in which boxes are compared."""
        return boxes

    def from_suppression(self, boxes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """The inverse."""
        return boxes

    def decode_points(self, xy: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        """FCOS's boxes (P, 4), from locations (P, 2) and distances (P, 4)."""
        return torch.cat((xy - sides[:, :2], xy + sides[:, 2:]), dim=1)


class MMDet1Arithmetic(Arithmetic):
    """As MMDetection 1.x: see :mod:`hrnet_d2.modeling.mmdet1.boxes`, whose limits are numbers."""

    needs_scale = True

    def clip(self, boxes: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        height, width = size.unbind()
        low = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        high = torch.stack((width - 1, height - 1, width, height))
        return torch.minimum(torch.maximum(boxes, low), high)

    def to_suppression(self, boxes: torch.Tensor, scale: Any) -> torch.Tensor:
        return to_original(boxes, scale)

    def from_suppression(self, boxes: torch.Tensor, scale: Any) -> torch.Tensor:
        return to_network(boxes, scale)

    def decode_points(self, xy: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        return torch.cat((xy - sides[:, :2], xy + sides[:, 2:] + 1), dim=1)


class DetectorGraph(nn.Module):
    """What all families have in common: the inputs, and the dtype of the layers."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32):
        """
        Args:
            model: a detector in eval mode; it stays as it is.
            dtype: of the layers. Boxes and scores are float32 in any case.
        """
        super().__init__()
        self.model = copy.deepcopy(model)
        cast_layers(self.model, dtype)
        self.dtype = dtype
        mmdet1 = isinstance(model, MMDet1RCNN | MMDet1FCOS)
        self.arithmetic = MMDet1Arithmetic() if mmdet1 else Arithmetic()

    def _features(self, images: torch.Tensor, size: torch.Tensor) -> dict[str, torch.Tensor]:
        """The pyramid of the normalized image, zero outside of it, as Detectron2 pads."""
        x = (images.float() - self.model.pixel_mean) / self.model.pixel_std
        rows = torch.arange(images.shape[2], device=x.device) < size[0]
        columns = torch.arange(images.shape[3], device=x.device) < size[1]
        x = torch.where(rows[:, None] & columns[None], x, 0.0)
        features: dict[str, torch.Tensor] = self.model.backbone(x.to(self.dtype))
        return features

    def _suppress(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        classes: torch.Tensor,
        num_classes: int,
        size: torch.Tensor,
        scale: torch.Tensor | None,
        iou: float,
        most: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The detections among the candidates: clipped boxes of the input, scores, classes."""
        compared = self.arithmetic.to_suppression(boxes, scale)
        side = size.max() if scale is None else size.max() / scale + 1.0
        keep = grouped_nms(compared, scores, classes, num_classes, side, iou)
        if most >= 0:
            keep = keep[:most]
        return self.arithmetic.from_suppression(compared[keep], scale), scores[keep], classes[keep]


def cast_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters and the statistics of normalization layers, and no anchors or pixel means."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, _BatchNorm | FrozenBatchNorm2d):
            module.to(dtype)


def top_padded(x: torch.Tensor, count: int, value: float) -> torch.Tensor:
    """``x`` (..., P) with ``count`` more places, so that the best ``count`` always exist."""
    return F.pad(x, (0, count), value=value)
