"""What the graphs of all families share: input, clipping, non-maximum suppression.

A graph takes padded images to detections without branches on values: ``torch.export`` and the
TorchScript tracer follow tensors only, so a step that depends on how many boxes are left, or on
whether all values are finite, cannot be a Python branch. The layers are the model's own; what is
written anew are the selections between them, in a form that every runtime has.

N = number of images, R = number of boxes, D = number of detections; of all images together.
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

__all__ = [
    "DetectorGraph",
    "best_of_each",
    "bounded",
    "grouped_nms",
    "len_of",
    "positions",
    "top_padded",
]


def grouped_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor,
    num_groups: torch.Tensor,
    side: torch.Tensor,
    iou: float,
) -> torch.Tensor:
    """Non-maximum suppression within each group, by one call of the runtime's operator.

    Groups are moved apart on a square grid. In a row, as torchvision moves them, 80 classes of a
    large image would reach coordinates of 100,000 pixels, where float32 has steps of 0.008 pixels.

    Args:
        boxes: (R, 4) within 0 ... ``side``.
        scores: (R,).
        groups: (R,) int64 from 0 to ``num_groups`` - 1.
        num_groups: () int64.
        side: () longest side of the images.
        iou: above which the box of the lower score is suppressed.

    Returns:
        Indices of the boxes that stay, sorted by descending score.
    """
    columns = num_groups.float().sqrt().ceil().long()
    cell = torch.stack((groups % columns, groups // columns), dim=1).float() * (side + 1.0)
    return bounded(nms(boxes + cell.repeat(1, 2), scores, iou))


def best_of_each(image: torch.Tensor, images: torch.Tensor, most: int) -> torch.Tensor:
    """The best boxes of each image, image after image.

    Args:
        image: (R,) position of each box's image in the batch; the boxes are sorted by descending
            score.
        images: (N,) positions of the images, 0 ... N - 1.
        most: boxes of an image; all of them if negative.

    Returns:
        Positions among the boxes.
    """
    own = image == images[:, None]
    if most >= 0:
        own = own & (own.long().cumsum(dim=1) <= most)
    return bounded(own.nonzero())[:, 1]


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
        """Boxes (..., 4) in images of ``size`` (..., 2), height and width."""
        height, width = size.unbind(dim=-1)
        limits = torch.stack((width, height, width, height), dim=-1)
        return torch.minimum(boxes.clamp(min=0), limits)

    def to_suppression(self, boxes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """From pixels of the input to those in which boxes are compared.

        Args:
            boxes: (R, 4).
            scale: (R, 1), that of each box's image; None where it is not needed.
        """
        return boxes

    def from_suppression(self, boxes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """The inverse."""
        return boxes

    def decode_points(self, xy: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        """FCOS's boxes (..., 4), from locations (..., 2) and distances (..., 4)."""
        return torch.cat((xy - sides[..., :2], xy + sides[..., 2:]), dim=-1)


class MMDet1Arithmetic(Arithmetic):
    """As MMDetection 1.x: see :mod:`hrnet_d2.modeling.mmdet1.boxes`, whose limits are numbers."""

    needs_scale = True

    def clip(self, boxes: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        height, width = size.unbind(dim=-1)
        low = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        high = torch.stack((width - 1, height - 1, width, height), dim=-1)
        return torch.minimum(torch.maximum(boxes, low), high)

    def to_suppression(self, boxes: torch.Tensor, scale: Any) -> torch.Tensor:
        return to_original(boxes, scale)

    def from_suppression(self, boxes: torch.Tensor, scale: Any) -> torch.Tensor:
        return to_network(boxes, scale)

    def decode_points(self, xy: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        return torch.cat((xy - sides[..., :2], xy + sides[..., 2:] + 1), dim=-1)


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
        """The pyramid of the normalized images, zero outside of them, as Detectron2 pads."""
        x = (images.float() - self.model.pixel_mean) / self.model.pixel_std
        rows = torch.arange(images.shape[2], device=x.device) < size[:, :1]
        columns = torch.arange(images.shape[3], device=x.device) < size[:, 1:]
        x = torch.where(rows[:, None, :, None] & columns[:, None, None, :], x, 0.0)
        features: dict[str, torch.Tensor] = self.model.backbone(x.to(self.dtype))
        return features

    def _suppress(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        classes: torch.Tensor,
        image: torch.Tensor,
        num_classes: int,
        size: torch.Tensor,
        scale: torch.Tensor | None,
        iou: float,
        most: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The detections among the candidates: clipped boxes of the input, scores, classes and
        positions of their images, image after image."""
        images = positions(size)
        # Of each box, as a column.
        own_scale = None if scale is None else scale[image][:, None]
        compared = self.arithmetic.to_suppression(boxes, own_scale)
        side = size.max() if scale is None else (size.amax(dim=1) / scale + 1.0).max()
        groups, num_groups = image * num_classes + classes, len_of(images) * num_classes
        keep = grouped_nms(compared, scores, groups, num_groups, side, iou)
        keep = keep[best_of_each(image[keep], images, most)]
        own_scale = None if own_scale is None else own_scale[keep]
        boxes = self.arithmetic.from_suppression(compared[keep], own_scale)
        return boxes, scores[keep], classes[keep], image[keep]


def positions(size: torch.Tensor) -> torch.Tensor:
    """(N,) int64, 0 ... N - 1, of sizes (N, 2)."""
    return torch.arange(size.shape[0], device=size.device)


def len_of(images: torch.Tensor) -> torch.Tensor:
    """N as a tensor (), of the positions: a number would be recorded as that of the example."""
    return images[-1] + 1


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
