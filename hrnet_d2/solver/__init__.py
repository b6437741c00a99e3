"""Optimizers: the parameter groups and gradient clipping of MMDetection's recipes."""

from .build import build_optimizer, clip_full_model_gradient, get_optimizer_params
from .sgd import clipped_sgd, sgd

__all__ = [
    "build_optimizer",
    "clip_full_model_gradient",
    "clipped_sgd",
    "get_optimizer_params",
    "sgd",
]
