"""SGD with the gradient clipping of MMDetection's FCOS recipe, for LazyConfigs."""

from typing import Any

import torch

from .build import clip_full_model_gradient

__all__ = ["clipped_sgd"]


def clipped_sgd(
    params: Any, *, max_norm: float, norm_type: float = 2.0, foreach: bool = True, **kwargs: Any
) -> torch.optim.SGD:
    """``torch.optim.SGD`` that clips the norm of the whole gradient before each step.

    A LazyConfig's optimizer is one call with ``params``, which Detectron2's
    ``lazyconfig_train_net.py`` completes with the model: this is that call for models whose
    gradient is clipped. From YAML the same comes from ``SOLVER.CLIP_GRADIENTS``.

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
