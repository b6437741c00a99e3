"""Memory for large maps on the CPU.

The allocator asks the system for every block above 32 MiB and gives it back when it is free; the
system then clears 15,000 pages for a map of 60 MB, which takes longer than many a convolution
that fills it.  NumPy asks for huge pages (on Linux, where they may be asked for), of which there
are 512 times fewer.
"""

import numpy as np
import torch

__all__ = ["empty_map", "is_large", "zero_map"]

LARGE_BYTES = 32 * 2**20  # glibc's limit: smaller blocks it keeps


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether a float32 map of this shape is worth it."""
    return 4 * int(np.prod(shape)) >= LARGE_BYTES


def empty_map(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(N, C, H, W) in channels-last format, of any values."""
    n, c, h, w = shape
    if dtype != torch.float32 or not is_large(shape):
        return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
    return torch.from_numpy(np.empty((n, h, w, c), np.float32)).permute(0, 3, 1, 2)


def zero_map(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """(N, C, H, W) float32, in channels-last format, of zeros that the system supplies."""
    n, c, h, w = shape
    return torch.from_numpy(np.zeros((n, h, w, c), np.float32)).permute(0, 3, 1, 2)
