"""What PyTorch's fused steps of optimizers take for granted."""

from typing import Any

import torch
from torch.autograd.graph import increment_version

__all__ = ["prepare_fused"]


def prepare_fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let a fused optimizer step as the others do, whatever state it has; changed in place.

    A fused step of SGD fails where some parameters of a group have momentum and others none yet,
    such as those that were frozen until now.  On a CPU it reads parameters and their state in the
    order of memory, so that momentum saved in another memory format would go to wrong elements.
    And it does not count as a change of the parameters, which models of ``hrnet_d2.optimize`` would
    not notice.

    Args:
        optimizer: with ``fused=True``; others are left as they are.

    Returns:
        The same optimizer.
    """
    if any(group.get("fused") for group in optimizer.param_groups):
        optimizer.register_step_pre_hook(_prepare)
        optimizer.register_step_post_hook(_count_change)
    return optimizer


def _prepare(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        states = [optimizer.state.get(p, {}) for p in group["params"]]
        for parameter, state in zip(group["params"], states, strict=True):
            for name, value in state.items():
                if _differs(value, parameter):
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        missing = [state.get("momentum_buffer") is None for state in states]
        if group.get("momentum") and any(missing) and not all(missing):
            for parameter, lacks in zip(group["params"], missing, strict=True):
                if lacks:
                    zeros = torch.zeros_like(parameter)
                    optimizer.state[parameter]["momentum_buffer"] = zeros


def _count_change(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                increment_version(parameter)


def _differs(value: Any, parameter: torch.Tensor) -> bool:
    """Whether a value of a parameter's state has its shape in another memory format."""
    return (
        isinstance(value, torch.Tensor)
        and value.shape == parameter.shape
        and value.stride() != parameter.stride()
    )
