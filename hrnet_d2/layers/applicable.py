"""Where the kernels for training on a CPU apply."""

import torch

__all__ = ["trains_in_float32"]


def trains_in_float32(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a layer computes in float32 on the CPU, with gradients, in eager mode."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.numel() > 0
    )
