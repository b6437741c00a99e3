"""Pooling of regions from several levels without waiting for the GPU."""

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import nn

__all__ = ["StaticROIPooler"]


class StaticROIPooler(nn.Module):
    """Detectron2's ``ROIPooler`` with sizes that depend on the number of regions alone.

    ``ROIPooler`` asks the GPU which regions belong to each level, and waits for the answer.  Here
    every level pools all regions, those of other levels shrunk to a point, where there is nothing
    to sum up; each region keeps what its own level gave.  The same values to the bit, and CUDA
    graphs can capture it.
    """

    def __init__(self, inner: ROIPooler):
        super().__init__()
        self.inner = inner

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """As ``ROIPooler``: maps (N, C, H, W) and boxes of N images to (R, C, h, w)."""
        return self.inner(x, box_lists) if x[0].device.type == "cpu" else self.pool(x, box_lists)

    def pool(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """As :meth:`forward`, on any device."""
        inner = self.inner
        regions = torch.cat(
            [
                torch.cat([boxes.tensor.new_full((len(boxes), 1), i), boxes.tensor], dim=1)
                for i, boxes in enumerate(box_lists)
            ]
        )
        if len(inner.level_poolers) == 1:
            return inner.level_poolers[0](x[0], regions)
        levels = assign_boxes_to_levels(
            box_lists,
            inner.min_level,
            inner.max_level,
            inner.canonical_box_size,
            inner.canonical_level,
        )
        pooled = None
        for i, (level, pooler) in enumerate(zip(x, inner.level_poolers, strict=True)):
            own = (levels == i)[:, None]
            here = pooler(level, torch.cat([regions[:, :1], regions[:, 1:] * own], dim=1))
            pooled = here if pooled is None else torch.where(own[:, :, None, None], here, pooled)
        assert pooled is not None
        return pooled
