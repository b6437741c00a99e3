"""Boxes of MMDetection 1.x in half-open form: XYXY, with x2 and y2 one larger than in 1.x."""

from collections.abc import Sequence
from typing import cast

import torch
from detectron2.modeling.box_regression import Box2BoxTransform

__all__ = [
    "BoxTransform",
    "ResizedSize",
    "clip",
    "resize_factor",
    "scale_of",
    "to_network",
    "to_original",
]


class ResizedSize(tuple[int, int]):
    """Height and width of the network's input, and the factor by which the image was resized.

    Detectron2 passes the size on from the images to the proposals and to the detections.

    Attributes:
        scale: pixels of the network's input for each pixel of the original image.
    """

    scale: float

    def __new__(cls, size: Sequence[int], scale: float = 1.0) -> "ResizedSize":
        new = super().__new__(cls, (size[0], size[1]))
        new.scale = scale
        return new


def scale_of(size: tuple[int, int]) -> float:
    """The factor of a :class:`ResizedSize`."""
    return cast(ResizedSize, size).scale


def resize_factor(
    original: tuple[int, int], resized: tuple[int, int], short_edge: int, long_edge: int
) -> float:
    """The one factor of both axes, as 1.x has it: not the ratio of the rounded sizes.

    Args:
        original: height and width of the image.
        resized: height and width of the network's input.
        short_edge: to which the shorter edge is resized, unless the longer one would exceed
            ``long_edge``; 0 leaves the image as it is.

    Returns:
        The factor that these lengths give; if it does not lead to ``resized``, because the image
        was resized in another way, the ratio of the longer edges.
    """
    height, width = original
    if short_edge > 0:
        factor = min(long_edge / max(original), short_edge / min(original))
        if (int(height * factor + 0.5), int(width * factor + 0.5)) == tuple(resized):
            return factor
    return max(resized) / max(original)


def clip(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Clip boxes (..., 4) so that first and last pixel lie in the image; none becomes empty.

    Args:
        boxes: half-open.
        size: height and width.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack(
        (
            x1.clamp(0, width - 1),
            y1.clamp(0, height - 1),
            x2.clamp(1, width),
            y2.clamp(1, height),
        ),
        dim=-1,
    )


def to_original(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    """Boxes (..., 4) on the original image: 1.x divides the first and the last pixel."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat((low / scale, (high - 1) / scale + 1), dim=-1)


def to_network(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    """The inverse of :func:`to_original`."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat((low * scale, (high - 1) * scale + 1), dim=-1)


class BoxTransform(Box2BoxTransform):
    """Detectron2's ``Box2BoxTransform`` with the deltas of the size bounded on both sides."""

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """As Detectron2's: (N, K * 4) deltas for (N, 4) boxes."""
        dx, dy, dw, dh = deltas.float().unflatten(-1, (-1, 4)).unbind(dim=-1)
        _, _, ww, wh = self.weights
        dw = dw.clamp(min=-self.scale_clamp * ww)
        dh = dh.clamp(min=-self.scale_clamp * wh)
        return super().apply_deltas(torch.stack((dx, dy, dw, dh), dim=-1).flatten(-2), boxes)
