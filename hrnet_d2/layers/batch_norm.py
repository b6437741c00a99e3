"""Batch normalization of channels-last maps, for training on a CPU."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .applicable import trains_in_float32

__all__ = ["CPUBatchNorm2d"]

# Pixels side by side that are read as one. PyTorch's kernels take the channels of a pixel as a
# vector, and leave the rest of 18 or 36 to scalar code; 8 pixels of them fill vectors of 16.
PIXELS = 8
# Elements below which the combination costs more than the kernels save.
SMALLEST_MAPS = 2**17


class CPUBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` of large channels-last maps: fast with few channels, exact for many.

    The maps are read as maps of an eighth of the pixels with eight times the channels, whose
    statistics combine to those of the channels.  PyTorch adds up all pixels of such maps in a row
    in float32; here the result is as exact as for maps in its own layout.  Small maps, other maps
    and types, and layers in eval mode take PyTorch's path.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (N, C, H, W).

        Returns:
            (N, C, H, W), in the same memory format.
        """
        if (
            not self.training
            or not self.affine
            or self.running_mean is None
            or self.momentum is None
            or x.dim() != 4
            or x.numel() < SMALLEST_MAPS
            or x[:, 0].numel() % PIXELS
            or not x.is_contiguous(memory_format=torch.channels_last)
            or not trains_in_float32(x, self.weight)
        ):
            return super().forward(x)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        result, mean, var = _Normalization.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            pixels = x[:, 0].numel()
            self.get_buffer("running_mean").lerp_(mean, self.momentum)
            self.get_buffer("running_var").lerp_(var * (pixels / (pixels - 1)), self.momentum)
        return result


class _Normalization(torch.autograd.Function):
    """Normalized maps, and mean and variance (C,) of the channels."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wide = _wide(x)
        means, variances = torch.batch_norm_update_stats(wide, None, None, 0.0)
        # Of all pixels: the mean of the variances and the variance of the means.
        var, mean = torch.var_mean(means.view(PIXELS, -1), 0, correction=0)
        var += variances.view(PIXELS, -1).mean(0)
        invstd = (var + eps).rsqrt_()
        scale = weight * invstd
        offset = torch.addcmul(bias, mean, scale, value=-1)
        vectors = torch.stack([mean, invstd, scale, offset]).repeat(1, PIXELS)
        # Not a view, which the ReLU that follows could not overwrite.
        result = torch.empty_like(x)
        torch.addcmul(vectors[3], wide, vectors[2], out=_wide(result))
        ctx.save_for_backward(x, vectors)
        ctx.mark_non_differentiable(mean, var)
        return result, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        x, vectors = ctx.saved_tensors
        mean, invstd, scale, _ = vectors
        wide, grads = _wide(x), _wide(grad)
        # Only the sums of grad * (x - mean) / std and of grad.
        sums = torch.ops.aten.native_batch_norm_backward(
            grads, wide, None, None, None, mean, invstd, True, 0.0, [False, True, True]
        )[1:]
        sums = torch.stack(sums).view(2, PIXELS, -1).sum(1)
        grad_x = None
        if ctx.needs_input_grad[0]:
            means = sums.repeat(1, PIXELS) / x[:, 0].numel()
            slope = scale * invstd * means[0]
            # scale * (grad - mean of grad - (x - mean) * slope / scale)
            offset = torch.addcmul(scale * means[1], slope, mean, value=-1)
            grad_x = torch.empty_like(x)
            torch.addcmul(-offset, wide, slope, value=-1, out=_wide(grad_x)).addcmul_(grads, scale)
        return grad_x, sums[0], sums[1], None


def _wide(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N * H * W / PIXELS, PIXELS * C), no copy of channels-last maps."""
    return x.permute(0, 2, 3, 1).reshape(-1, PIXELS * x.shape[1])
