"""What each location of FCOS has to predict.

Shapes: N images, P locations of all levels together, G objects in the image that has the most.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch.nn.utils.rnn import pad_sequence

__all__ = ["assign_locations", "centerness_of", "level_locations", "pad_objects"]

# Locations x objects that are compared at a time: limits the memory (to about 120 MB).
MAX_PAIRS = 2**22


def level_locations(
    sizes: Sequence[Sequence[int]], strides: Sequence[int], device: torch.device
) -> torch.Tensor:
    """Centers of all cells of all levels, row by row, finest level first.

    Args:
        sizes: (rows, columns) of each level's features. A coarse level may have one row less than
            the image's height divided by the stride, rounded up.
        strides: of each level, in pixels.
        device: of the result.

    Returns:
        (P, 2) x and y in pixels of the network's input, float32.
    """
    levels = []
    for (rows, columns), stride in zip(sizes, strides, strict=True):
        x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) * stride
        y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) * stride
        grid = x.expand(rows, columns), y[:, None].expand(rows, columns)
        levels.append(torch.stack(grid, dim=-1).flatten(0, 1))
    return torch.cat(levels)


def pad_objects(instances: Sequence[Instances]) -> tuple[torch.Tensor, torch.Tensor]:
    """Objects of all images as one tensor, padded with empty boxes, which match nothing.

    Args:
        instances: for each image, with ``gt_boxes`` and ``gt_classes``.

    Returns:
        Boxes (N, G, 4) XYXY and classes (N, G), with G at least 1.
    """
    boxes = pad_sequence([x.gt_boxes.tensor for x in instances], batch_first=True)
    classes = pad_sequence([x.gt_classes for x in instances], batch_first=True)
    if boxes.shape[1] == 0:
        boxes, classes = boxes.new_zeros(len(boxes), 1, 4), classes.new_zeros(len(boxes), 1)
    return boxes, classes


@torch.no_grad()
def assign_locations(
    points: torch.Tensor,
    strides: torch.Tensor,
    ranges: torch.Tensor,
    boxes: torch.Tensor,
    center_radius: float = 0.0,
    max_pairs: int = MAX_PAIRS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The object that each location has to predict, if any.

    A location belongs to an object when it lies strictly inside its box, and the largest of its
    four distances to the box's sides is within its level's range, bounds included. Of several such
    objects it takes the one with the smallest area, and of equal areas the first. Follows
    MMDetection's ``FCOSHead.get_targets``.

    Args:
        points: (P, 2) x and y of the locations.
        strides: (P,) stride of each location's level.
        ranges: (P, 2) least and largest distance of each location's level.
        boxes: (N, G, 4) XYXY; no location belongs to a box without area.
        center_radius: the location must also lie within this many strides of the box's center; 0
            turns it off.
        max_pairs: limits the memory; the result does not depend on it.

    Returns:
        Index of the object (N, P) int64, -1 for background; distances from the location to the
        left, top, right and bottom of its object's box (N, P, 4), 1 for background.
    """
    n, g = boxes.shape[:2]
    p = len(points)
    best_area = boxes.new_full((n, p), torch.inf)
    best = torch.full((n, p), -1, dtype=torch.int64, device=boxes.device)
    step = max(1, max_pairs // max(1, n * p))
    for start in range(0, g, step):
        area, index = _smallest_object(
            points, strides, ranges, boxes[:, start : start + step], center_radius
        )
        # Strictly less: of equal areas the earlier object is kept.
        better = area < best_area
        best_area = torch.where(better, area, best_area)
        best = torch.where(better, index + start, best)

    matched = boxes.gather(1, best.clamp(min=0)[..., None].expand(-1, -1, 4))
    distances = torch.cat([points - matched[..., :2], matched[..., 2:] - points], dim=-1)
    return best, torch.where(best[..., None] >= 0, distances, 1.0)


def _smallest_object(
    points: torch.Tensor,
    strides: torch.Tensor,
    ranges: torch.Tensor,
    boxes: torch.Tensor,
    center_radius: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Area (infinite for background) and index (N, P) of the smallest object at each location."""
    x, y = points[:, 0, None], points[:, 1, None]  # (P, 1), against (N, 1, G)
    x1, y1, x2, y2 = boxes[:, None].unbind(-1)
    left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y
    nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
    farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    belongs = (nearest > 0) & (farthest >= ranges[:, 0, None]) & (farthest <= ranges[:, 1, None])
    if center_radius > 0:
        reach = (strides * center_radius)[:, None]
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        belongs &= (x > cx - reach) & (x < cx + reach) & (y > cy - reach) & (y < cy + reach)
    area = torch.where(belongs, (x2 - x1) * (y2 - y1), torch.inf)
    # torch.min returns the first of equal values.
    return area.min(dim=-1)


def centerness_of(distances: torch.Tensor) -> torch.Tensor:
    """1 at the center of the box, falling to 0 at its sides; equation 3 of the FCOS paper.

    Args:
        distances: (..., 4) from the location to the left, top, right and bottom, positive.

    Returns:
        (...), in (0, 1].
    """
    left, top, right, bottom = distances.unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (horizontal * vertical).sqrt()
