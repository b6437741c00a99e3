"""RoIAlign for CPUs: a weighted sum of pixels, all channels of a pixel at once."""

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from torch import nn

__all__ = ["FastROIAlign"]


class FastROIAlign(nn.Module):
    """``ROIAlign`` whose CPU form reads channels-last maps by whole pixels, on all threads.

    A bin's value is the mean of bilinear samples on a grid, so a weighted sum over a small block
    of pixels whose weights are a product of one factor for rows and one for columns.  Samples
    are at most a pixel apart, and samples share pixels: the block is half the taps of the
    samples or less.  The sums run as ``embedding_bag``.  (torchvision's kernel runs on one thread
    and gathers channel by channel.)  Equal to float rounding; with gradients, on another device
    or in another type, the layer's own kernel runs.
    """

    def __init__(self, pooler: ROIAlign):
        super().__init__()
        self.pooler = pooler
        size = pooler.output_size
        self.output_size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (N, C, H, W).
            rois: (R, 5): image's index, then x0, y0, x1, y1 in pixels of the network's input.

        Returns:
            (R, C, h, w), channels-last.
        """
        if (
            x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_grad_enabled()
            or len(rois) == 0
            or torch.compiler.is_compiling()
        ):
            return self.pooler(x, rois)
        n, channels, height, width = x.shape
        rows, columns = self.output_size
        offset = 0.5 if self.pooler.aligned else 0.0
        corners = rois[:, 1:].float() * self.pooler.spatial_scale - offset
        start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
        if not self.pooler.aligned:
            extent = extent.clamp(min=1.0)
        first_y, count_y, weight_y = self._taps(start[:, 1], extent[:, 1], rows, height)
        first_x, count_x, weight_x = self._taps(start[:, 0], extent[:, 0], columns, width)

        # One bag for each bin of each region, in that order; its entries are its block's pixels.
        counts = (count_y[:, :, None] * count_x[:, None, :]).flatten()
        ends = counts.cumsum(0)
        bag = torch.repeat_interleave(counts)
        inside = torch.arange(len(bag)) - (ends - counts)[bag]
        region_y = bag // columns  # region * rows + row of the bin
        region_x = region_y // rows * columns + bag % columns
        block_width = count_x.flatten()[region_x]
        j = inside // block_width
        i = inside - j * block_width
        images = (rois[:, 0].long() * height)[region_y // rows]
        pixel = (images + first_y.flatten()[region_y] + j) * width
        pixel += first_x.flatten()[region_x] + i
        weight = weight_y.flatten()[region_y * weight_y.shape[-1] + j]
        weight *= weight_x.flatten()[region_x * weight_x.shape[-1] + i]
        table = x.permute(0, 2, 3, 1).reshape(n * height * width, channels)
        pooled = F.embedding_bag(pixel, table, ends - counts, mode="sum", per_sample_weights=weight)
        return pooled.view(len(rois), rows, columns, channels).permute(0, 3, 1, 2)

    def _taps(
        self, start: torch.Tensor, extent: torch.Tensor, bins: int, size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels along one axis that each bin sums over.

        Args:
            start, extent: (R,) of the regions, in pixels of the map.
            bins: along the axis.
            size: of the map along the axis.

        Returns:
            First pixel (R, bins), number of pixels (R, bins), and their weights (R, bins, most).
        """
        if self.pooler.sampling_ratio > 0:
            samples = torch.full_like(start, self.pooler.sampling_ratio)
        else:
            samples = (extent / bins).ceil().clamp(min=0)  # none in a box without area
        divisor = samples.clamp(min=1)[:, None]
        step = extent / bins
        most = max(1, int(samples.max()))
        k = torch.arange(most)
        # Each product and quotient in the order of torchvision's kernel.
        at = start[:, None] + torch.arange(bins) * step[:, None]
        at = at[..., None] + ((k + 0.5) * step[:, None] / divisor)[:, None]
        used = (k < samples[:, None])[:, None] & (at >= -1) & (at <= size)
        at = at.clamp(0, size - 1)
        low = at.floor().long()
        first = torch.where(used, low, size).amin(-1).clamp(max=size - 1)
        last = torch.where(used, low + 1, 0).amax(-1).clamp(max=size - 1)
        # A bin without samples keeps one pixel of weight 0.
        last = torch.maximum(last, first)
        pixels = first[..., None] + torch.arange(int((last - first).max()) + 1)
        distance = (at[..., None] - pixels[:, :, None]).abs()
        tent = (1 - distance).clamp(min=0) * used[..., None]
        weight = tent.sum(2) / divisor[..., None]
        return first, last - first + 1, weight
