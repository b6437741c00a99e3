"""Non-maximum suppression of several groups at once, without the rounding of their offsets."""

import torch
from torchvision.ops import batched_nms

__all__ = ["batched_nms_in_double"]


def batched_nms_in_double(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, iou: float
) -> torch.Tensor:
    """torchvision's ``batched_nms`` in double precision.

    Groups are separated by an offset that would cost single precision hundredths of a pixel, or
    tenths with many groups.  Apple's GPUs have no double precision: there the CPU computes it.

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
        scores: (N,).
        groups: (N,) integers; boxes of different groups do not suppress each other.
        iou: boxes that overlap a better one by more than this are removed.

    Returns:
        (K,) indices of what is kept, sorted by descending score, on the device of ``boxes``.
    """
    device = boxes.device
    if device.type == "mps":
        boxes, scores, groups = boxes.cpu(), scores.cpu(), groups.cpu()
    keep: torch.Tensor = batched_nms(boxes.double(), scores.double(), groups, iou)
    return keep.to(device)
