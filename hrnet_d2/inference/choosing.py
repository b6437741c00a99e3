"""The faster of two forms of a detector, by measurement on the machine at hand."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .dense import find_dense_head

__all__ = ["dense_seconds", "faster_of"]

logger = logging.getLogger(__name__)

SIZE = (512, 768)
REPEAT = 2


def faster_of(models: dict[str, nn.Module], running: Any) -> str:
    """The name of the model whose dense part takes the least time.

    Args:
        models: forms of one detector, by name; the first wins unless another is faster.
        running: from a model to the context that its forward pass runs in.

    Returns:
        A key of ``models``.
    """
    seconds = dict.fromkeys(models, float("inf"))
    for turn in range(REPEAT + 1):
        for name, model in models.items():
            with running(model):
                taken = dense_seconds(model)
            if turn > 0:  # the first lays out weights
                seconds[name] = min(seconds[name], taken)
    best = min(seconds, key=lambda name: seconds[name])
    figures = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    logger.info("Backbone, neck and dense head at %d x %d: %s; %s runs", *SIZE, figures, best)
    return best


def dense_seconds(model: Any) -> float:
    """Seconds of backbone, neck and dense head on one image of ``SIZE``."""
    channels = len(getattr(model, "pixel_mean", torch.zeros(3)))
    image = torch.linspace(-2, 2, channels * SIZE[0] * SIZE[1]).view(1, channels, *SIZE)
    owner, name, levels = find_dense_head(model)
    start = time.perf_counter()
    features = model.backbone(image)
    if owner is not None:
        maps: Sequence[torch.Tensor] = [features[level] for level in levels]
        getattr(owner, name)(maps)
    return time.perf_counter() - start
