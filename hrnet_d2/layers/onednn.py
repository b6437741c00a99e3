"""oneDNN's kernels as PyTorch's own compiler calls them, for CPUs.

PyTorch multiplies float32 matrices by MKL, which on AMD's processors keeps to AVX2: oneDNN, with
AVX-512, is twice as fast there. Without AVX-512 it is slower than MKL.
"""

import torch

__all__ = ["computes_bfloat16", "has_onednn", "linear", "multiplies_faster", "pack_linear"]


def has_onednn() -> bool:
    """Whether this build of PyTorch has the kernels."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name)
        for name in ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight")
    )


def multiplies_faster() -> bool:
    """Whether :func:`linear` is faster than PyTorch's products of float32 on this processor."""
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_onednn() and (has_avx512 or not torch.backends.mkl.is_available())


def computes_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 kernels for this processor."""
    return has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_linear(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """The weight of a linear layer, laid out for :func:`linear`.

    Args:
        weight: (out, in).
        rows: that will be multiplied at a time, about.

    Returns:
        A tensor in oneDNN's own format, which can be neither copied nor saved.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias`` on the CPU, without gradients.

    Args:
        x: (rows, in).
        weight: (out, in), a view at will, or of :func:`pack_linear`.
        bias: (out,) or None.

    Returns:
        (rows, out).
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
