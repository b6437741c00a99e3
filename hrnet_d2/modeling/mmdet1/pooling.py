"""RoIAlign of MMDetection 1.x."""

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import nn

__all__ = ["MMDet1ROIPooler"]

SAMPLES = 2  # for each bin and axis


class _ShiftedROIAlign(nn.Module):
    """RoIAlign without the half-pixel shift, and without a least size of one pixel.

    Detectron2's ``aligned=True`` subtracts half a pixel of the map, and ``aligned=False`` enlarges
    regions of less than one: 1.x does neither.  Moving the regions beforehand undoes the shift.
    """

    def __init__(self, output_size: tuple[int, int], spatial_scale: float):
        super().__init__()
        self.shift = 0.5 / spatial_scale  # half a pixel of the map, in pixels of the image
        self.align = ROIAlign(output_size, spatial_scale, SAMPLES, aligned=True)

    def forward(self, x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """As Detectron2's ``ROIAlign``."""
        return self.align(x, torch.cat((rois[:, :1], rois[:, 1:] + self.shift), dim=1))


class MMDet1ROIPooler(ROIPooler):
    """Detectron2's ``ROIPooler`` with the RoIAlign of 1.x."""

    def __init__(self, pooler: ROIPooler):
        """
        Args:
            pooler: with RoIAlign of any kind; output size and scales are taken from it.
        """
        scales = [level.spatial_scale for level in pooler.level_poolers]
        super().__init__(
            pooler.output_size,
            scales,
            SAMPLES,
            "ROIAlignV2",
            canonical_box_size=pooler.canonical_box_size,
            canonical_level=pooler.canonical_level,
        )
        self.level_poolers = nn.ModuleList(
            _ShiftedROIAlign(pooler.output_size, scale) for scale in scales
        )
