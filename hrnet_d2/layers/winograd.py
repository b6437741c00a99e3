"""3x3 convolution with a quarter of the multiplications, for CPUs.

Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray, "Fast Algorithms for Convolutional Neural
Networks", https://arxiv.org/abs/1509.09308): a tile of 4x4 outputs comes from 36 products for each
pair of channels, not 144.  oneDNN has no such kernel for AVX2, and the 3x3 convolutions of
256 channels in neck, RPN, FCOS towers and mask heads are most of a detector's arithmetic.  Written
in PyTorch's own operators: transforms are sums of strided views, the products one batched GEMM.

The result differs from direct convolution by float rounding: about 1e-5 of the largest output, the
direct sum of 2304 float32 products being itself off by 2e-6.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from hrnet_d2.layers.onednn import linear, multiplies_faster, pack_linear

__all__ = [
    "Weight",
    "is_profitable",
    "pack_weight",
    "transform_weight",
    "winograd_conv3x3",
    "winograd_weight_gradient",
]

# (36, O, I), or each of the 36 laid out for oneDNN.
Weight: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]

TILE = 4  # outputs a side
WINDOW = TILE + 2  # inputs a side, and products a side
# Elements of one product (tiles x channels) held at a time: 36 of these stay in the cache.
CHUNK_ELEMENTS = 80_000
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_AT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
# Where a constant added to the product adds it once to each of the 16 outputs: row 1, column 1.
_BIAS_AT = WINDOW + 1


def is_profitable(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind that the transform speeds up."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.in_channels >= 128
        and conv.out_channels >= 64
    )


def transform_weight(weight: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(O, I, 3, 3) to Winograd's (36, O, I), computed in ``dtype``."""
    g = torch.tensor(_G, dtype=dtype, device=weight.device)
    taps = weight.detach().to(dtype).reshape(-1, 9).t()
    transformed = torch.kron(g, g) @ taps
    return transformed.view(WINDOW**2, *weight.shape[:2]).to(weight.dtype)


def pack_weight(weight: torch.Tensor) -> Weight:
    """(O, I, 3, 3) to the form that multiplies fastest on this machine, for many calls."""
    transformed = transform_weight(weight)
    if not multiplies_faster():
        return transformed.transpose(1, 2).contiguous().transpose(1, 2)  # as it is read
    rows = CHUNK_ELEMENTS // max(weight.shape[:2])
    return tuple(pack_linear(u, rows) for u in transformed)


def _multiply(
    tiles: torch.Tensor, weight: Weight, bias: torch.Tensor | None, channels: int
) -> torch.Tensor:
    """(36, T, I) to the products (36, T, O), with the bias where it comes to all outputs once."""
    if isinstance(weight, torch.Tensor) and not (
        tiles.dtype == torch.float32 and multiplies_faster()
    ):
        products = torch.bmm(tiles, weight.transpose(1, 2))
        if bias is not None:
            products[_BIAS_AT] += bias
        return products
    products = tiles.new_empty(len(weight), tiles.shape[1], channels)
    for i, (x, w) in enumerate(zip(tiles, weight, strict=True)):
        products[i] = linear(x, w, bias if i == _BIAS_AT else None)
    return products


def _input_transform(d: list[torch.Tensor], out: torch.Tensor) -> None:
    """B^T d along one axis: six maps in, six out."""
    torch.add(d[4], d[2], alpha=-5, out=out[0])
    out[0].add_(d[0], alpha=4)
    even, odd = torch.add(d[4], d[2], alpha=-4), torch.add(d[3], d[1], alpha=-4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.add(d[5], d[3], alpha=-5, out=out[5])
    out[5].add_(d[1], alpha=4)


class _Chunk(NamedTuple):
    """Some rows of tiles of some images.

    Attributes:
        images: of the batch.
        row: of tiles, the first.
        rows: of tiles.
    """

    images: slice
    row: int
    rows: int


def _chunks(n: int, rows: int, cols: int, channels: int) -> Iterator[_Chunk]:
    """A batch's tiles in chunks of about equal size whose products stay in the cache."""
    chunk_tiles = max(1, CHUNK_ELEMENTS // channels)
    images = max(1, min(n, chunk_tiles // (rows * cols)))
    step = max(1, min(rows, chunk_tiles // cols)) if images == 1 else rows
    step = -(-rows // -(-rows // step))
    for image in range(0, n, images):
        for row in range(0, rows, step):
            chosen = slice(image, min(image + images, n))
            yield _Chunk(chosen, row, min(step, rows - row))


def _input_tiles(x: torch.Tensor, chunk: _Chunk) -> torch.Tensor:
    """B^T d B of the windows of a chunk: (N, H, W, C) to (36, tiles, C)."""
    height, width, channels = x.shape[1:]
    count, m, cols = chunk.images.stop - chunk.images.start, chunk.rows, -(-width // TILE)
    top, bottom = chunk.row * TILE - 1, min(height, (chunk.row + m) * TILE + 1)
    window = x.new_empty(count, m * TILE + 2, cols * TILE + 2, channels)
    clipped = max(0, top)
    window[:, clipped - top : bottom - top, 1 : width + 1] = x[chunk.images, clipped:bottom]
    window[:, : clipped - top].zero_()
    window[:, bottom - top :].zero_()
    window[:, :, 0].zero_()
    window[:, :, width + 1 :].zero_()
    across = x.new_empty(WINDOW, count, m * TILE + 2, cols, channels)
    _input_transform(
        [window[:, :, j : j + TILE * (cols - 1) + 1 : TILE] for j in range(WINDOW)], across
    )
    tiled = x.new_empty(WINDOW, WINDOW, count, m, cols, channels)
    _input_transform(
        [across[:, :, i : i + TILE * (m - 1) + 1 : TILE] for i in range(WINDOW)], tiled
    )
    return tiled.view(WINDOW**2, count * m * cols, channels)


def winograd_conv3x3(
    x: torch.Tensor,
    weight: Weight,
    bias: torch.Tensor | None,
    relu: bool = False,
) -> torch.Tensor:
    """3x3 convolution, stride 1, padding 1, of float32 maps on the CPU; no gradients.

    Args:
        x: (N, I, H, W), best in channels-last format.
        weight: of ``pack_weight``, or of ``transform_weight``.
        bias: (O,) or None.
        relu: clamp the result at 0.

    Returns:
        (N, O, H, W), channels-last.
    """
    n, cin, height, width = x.shape
    cout = weight[0].shape[0]
    rows, cols = -(-height // TILE), -(-width // TILE)
    source = x.permute(0, 2, 3, 1)
    result = x.new_empty(n, height, width, cout)
    output = torch.tensor(_AT, dtype=x.dtype)
    output = torch.kron(output, output)  # (16, 36)

    for chunk in _chunks(n, rows, cols, max(cin, cout)):
        row, m, count = chunk.row, chunk.rows, chunk.images.stop - chunk.images.start
        products = _multiply(_input_tiles(source, chunk), weight, bias, cout)
        # A product for each row of tiles: small enough to stay in a core's own cache, and laid
        # out as the result is.
        by_row = products.view(WINDOW**2, count * m, cols * cout).transpose(0, 1)
        y = torch.bmm(output.expand(count * m, -1, -1), by_row)
        if relu:
            y.relu_()
        y = y.view(count, m, TILE, TILE, cols, cout).transpose(3, 4)
        last = min(height, (row + m) * TILE)
        target = result[chunk.images, row * TILE : last]
        if height >= (row + m) * TILE and width == cols * TILE:
            target.view(count, m, TILE, cols, TILE, cout).copy_(y)
        else:  # the last tiles reach over the edge
            y = y.reshape(count, m * TILE, cols * TILE, cout)
            target.copy_(y[:, : last - row * TILE, :width])
    return result.permute(0, 3, 1, 2)


def winograd_weight_gradient(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The gradient of the weight of :func:`winograd_conv3x3`: its sums the other way round.

    Args:
        x: (N, I, H, W), best in channels-last format.
        grad: (N, O, H, W), of the result.

    Returns:
        (O, I, 3, 3).
    """
    n, cin, height, width = x.shape
    cout = grad.shape[1]
    rows, cols = -(-height // TILE), -(-width // TILE)
    inputs, grads = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    if height % TILE or width % TILE:
        # Where the last tiles reach over the edge they add nothing.
        grads = F.pad(grads, (0, 0, 0, cols * TILE - width, 0, rows * TILE - height))
    output = torch.tensor(_AT, dtype=x.dtype)
    output = torch.kron(output, output).t()  # (36, 16)
    total = x.new_zeros(WINDOW**2, cout, cin)
    for chunk in _chunks(n, rows, cols, max(cin, cout)):
        tiles = _input_tiles(inputs, chunk)
        part = grads[chunk.images, chunk.row * TILE : (chunk.row + chunk.rows) * TILE]
        by_place = part.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE)).permute(2, 4, 0, 1, 3, 5)
        products = torch.mm(output, by_place.reshape(TILE**2, -1)).view(WINDOW**2, -1, cout)
        total.baddbmm_(products.transpose(1, 2), tiles)
    g = torch.tensor(_G, dtype=x.dtype)
    taps = torch.kron(g, g).t() @ total.view(WINDOW**2, -1)
    return taps.view(3, 3, cout, cin).permute(2, 3, 0, 1)
