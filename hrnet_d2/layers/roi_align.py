"""RoIAlign for CPUs: a weighted sum of pixels, all channels of a pixel at once."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from torch.autograd.function import once_differentiable

__all__ = ["FastROIAlign"]

# Entries of a matrix, each of some 80 bytes while it is made: large regions are pooled in parts.
MOST_ENTRIES = 2**21


class _Entries(NamedTuple):
    """A sparse matrix from pixels to bins, E = number of its entries, sorted by bin.

    Attributes:
        pixel: (E,) rows of the map's pixels, of all images.
        weight: (E,).
        bins: (E,) of all regions.
        first: (bins,) of each bin's entries.
    """

    pixel: torch.Tensor
    weight: torch.Tensor
    bins: torch.Tensor
    first: torch.Tensor


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N * H * W, C), no copy if the maps are channels-last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


class _Pooling(torch.autograd.Function):
    """Sums over pixels for each bin, and, for the gradient, over bins for each pixel."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, entries: _Entries) -> torch.Tensor:
        ctx.entries, ctx.shape = entries, x.shape
        return F.embedding_bag(
            entries.pixel, _rows(x), entries.first, mode="sum", per_sample_weights=entries.weight
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        entries: _Entries = ctx.entries
        n, channels, height, width = ctx.shape
        order = entries.pixel.argsort(stable=True)
        counts = torch.bincount(entries.pixel, minlength=n * height * width)
        pixels = F.embedding_bag(
            entries.bins[order],
            grad.contiguous(),
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=entries.weight[order],
        )
        return pixels.view(n, height, width, channels).permute(0, 3, 1, 2), None


class FastROIAlign(ROIAlign):
    """``ROIAlign`` whose CPU form reads channels-last maps by whole pixels, on all threads.

    A bin's value is the mean of bilinear samples on a grid, so a weighted sum over a small block
    of pixels whose weights are a product of one factor for rows and one for columns.  Samples
    are at most a pixel apart, and samples share pixels: the block is half the taps of the
    samples or less.  The sums run as ``embedding_bag``, those of the gradient too, pixel by pixel.
    (torchvision's kernels run on one thread and go channel by channel.)  Equal to float rounding;
    on another device or in double precision the layer's own kernel runs.
    """

    def __init__(self, pooler: ROIAlign):
        super().__init__(
            pooler.output_size, pooler.spatial_scale, pooler.sampling_ratio, pooler.aligned
        )

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
            or x.dtype not in (torch.float32, torch.bfloat16, torch.float16)
            or len(rois) == 0
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            return super().forward(x, rois)
        maps = x.float()  # as torchvision's kernel under autocast
        parts = []
        for part in self._parts(rois, x.shape[-2], x.shape[-1]):
            with torch.no_grad():
                entries = self._entries(part, x.shape[-2], x.shape[-1])
            parts.append(_Pooling.apply(maps, entries).to(x.dtype))
        pooled = parts[0] if len(parts) == 1 else torch.cat(parts)
        rows, columns = self._bins()
        return pooled.view(len(rois), rows, columns, x.shape[1]).permute(0, 3, 1, 2)

    def _parts(self, rois: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
        """The regions, divided where they would have too many entries."""
        rows, columns = self._bins()
        if len(rois) * (height + 2 * rows) * (width + 2 * columns) <= MOST_ENTRIES:
            return (rois,)
        # A bin reads at most two pixels more than it covers.
        extent = (rois[:, 3:] - rois[:, 1:3]).double() * self.spatial_scale
        across = extent[:, 0].clamp(0, width) + 2 * columns
        entries = across * (extent[:, 1].clamp(0, height) + 2 * rows)
        numbers = (entries.cumsum(0) / MOST_ENTRIES).floor()
        return rois.split(numbers.unique_consecutive(return_counts=True)[1].tolist())

    def _bins(self) -> tuple[int, int]:
        size = self.output_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def _entries(self, rois: torch.Tensor, height: int, width: int) -> _Entries:
        """What each bin sums over, for maps of this size."""
        rows, columns = self._bins()
        offset = 0.5 if self.aligned else 0.0
        corners = rois[:, 1:].float() * self.spatial_scale - offset
        start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
        if not self.aligned:
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
        return _Entries(pixel, weight, bag, ends - counts)

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
        if self.sampling_ratio > 0:
            samples = torch.full_like(start, self.sampling_ratio)
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
