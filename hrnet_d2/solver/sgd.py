"""The optimizers that ``build_optimizer`` makes of the recipes' YAML, for LazyConfigs.

A LazyConfig's optimizer is one call with ``params``, which Detectron2's
``lazyconfig_train_net.py`` completes with the model.
"""

from typing import Any

import torch

from .build import clip_full_model_gradient, on_cpu
from .fused import prepare_fused

__all__ = ["clipped_sgd", "sgd"]


def sgd(params: Any, *, fused: bool | None = None, **kwargs: Any) -> torch.optim.SGD:
    """``torch.optim.SGD`` whose step is one kernel on a CPU, and a few elsewhere.

    Args:
        params: parameters or parameter groups, as ``torch.optim.SGD`` takes them.
        fused: one kernel; None: on a CPU, without dampening. From YAML the same comes from
            ``SOLVER.FUSED``.
        kwargs: of ``torch.optim.SGD``.

    Raises:
        ValueError: if ``torch.optim.SGD`` refuses an argument.
    """
    # The base class lists what may be iterators, which could be looked at only once.
    groups = torch.optim.Optimizer(params, {}).param_groups
    if fused is None:
        fused = on_cpu(groups) and not kwargs.get("dampening")
    optimizer = torch.optim.SGD(groups, foreach=not fused, fused=fused, **kwargs)
    prepare_fused(optimizer)
    return optimizer


def clipped_sgd(
    params: Any, *, max_norm: float, norm_type: float = 2.0, foreach: bool = True, **kwargs: Any
) -> torch.optim.SGD:
    """``torch.optim.SGD`` that clips the norm of the whole gradient before each step.

    From YAML the same comes from ``SOLVER.CLIP_GRADIENTS``.

    Args:
        params: parameters or parameter groups, as ``torch.optim.SGD`` takes them.
        max_norm, norm_type: as in :func:`clip_full_model_gradient`.
        foreach: a few kernels for all parameters, as Detectron2's optimizers have.
        kwargs: of ``torch.optim.SGD``.

    Raises:
        ValueError: if ``max_norm`` is not positive, or ``torch.optim.SGD`` refuses an argument.
    """
    optimizer = torch.optim.SGD(params, foreach=foreach, **kwargs)
    clip_full_model_gradient(optimizer, max_norm, norm_type)
    return optimizer
