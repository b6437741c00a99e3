"""Training that has diverged: the error, and the check of the weights."""

import torch
from torch import nn

from hrnet_d2.checkpoint.values import LARGEST

__all__ = ["LARGEST_LOSS", "DivergedError", "check_weights", "weights_problem"]

# Beyond any weight or loss of a training that works, and far below float32's largest number: with
# batch statistics, a network goes on computing finite losses with weights that mean nothing.
LARGEST_WEIGHT = 1e9
LARGEST_LOSS = 1e9


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
        # Buffers: what a checkpoint may have when it is loaded.
        if not value <= (LARGEST_WEIGHT if name in parameters else LARGEST):
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
