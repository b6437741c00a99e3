"""Masks of MMDetection 1.x: its ``FCNMaskHead.get_seg_masks``."""

import cv2
import numpy as np
import torch

__all__ = ["paste_masks"]


def paste_masks(
    masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Resize each mask to the whole pixels of its box, and compare it to the threshold there.

    Args:
        masks: (R, h, w) probabilities.
        boxes: (R, 4) half-open boxes on the image.
        size: height and width of the image.

    Returns:
        (R, height, width) bool, on the device of ``masks``.
    """
    height, width = size
    pasted = np.zeros((len(masks), height, width), dtype=bool)
    probabilities = masks.float().cpu().numpy()
    first = boxes[:, :2].int().cpu().numpy()
    last = (boxes[:, 2:] - 1).int().cpu().numpy()  # truncated, as 1.x does
    for mask, probability, (x, y), extent in zip(
        pasted, probabilities, first.tolist(), (last - first + 1).clip(min=1).tolist(), strict=True
    ):
        resized = cv2.resize(probability, extent, interpolation=cv2.INTER_LINEAR) > threshold
        region = mask[y : y + extent[1], x : x + extent[0]]
        region[...] = resized[: region.shape[0], : region.shape[1]]
    return torch.from_numpy(pasted).to(masks.device)
