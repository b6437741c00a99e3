"""Training that has diverged: the error, and the check of the weights."""

import numpy as np
import torch
from torch import nn

__all__ = ["DivergedError", "check_weights", "weights_problem"]

# Beyond any weight that training arrives at, and far below float32's largest number.
LARGEST_WEIGHT = 1e9


class DivergedError(FloatingPointError):
    """Training has diverged: losses or weights are not finite, or absurdly large."""


def weights_problem(model: nn.Module) -> str:
    """What is wrong with the weights: the first tensor that is NaN, infinite or absurdly large.

    Args:
        model: whose state, parameters and floating-point buffers, is checked. (Constants that are
            not saved may be infinite, as the last bound of FCOS's levels is.)

    Returns:
        Empty if nothing is wrong.
    """
    named = [
        (name, tensor.detach())
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and tensor.numel()
    ]
    # One copy to the host for all tensors.
    largest = torch.stack([tensor.abs().max().float() for _, tensor in named]).cpu()
    parameters = {name for name, _ in model.named_parameters()}
    for (name, _), value in zip(named, largest.tolist(), strict=True):
        if not value <= (LARGEST_WEIGHT if name in parameters else np.finfo(np.float32).max):
            return f"the largest value of {name} is {value:g}"
    return ""


def check_weights(model: nn.Module, when: str) -> None:
    """Check that no weight is NaN, infinite or absurdly large; see :func:`weights_problem`.

    Args:
        model: to check.
        when: for the message, such as "at iteration 5".

    Raises:
        DivergedError: with the name of the first such tensor, and what to do.
    """
    if problem := weights_problem(model):
        raise DivergedError(
            f"Training has diverged: {when} {problem}. Nothing was saved of it: lower "
            "SOLVER.BASE_LR, or lengthen SOLVER.WARMUP_ITERS, and start from an earlier checkpoint"
        )
