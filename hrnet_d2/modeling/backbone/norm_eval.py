"""Batch normalization on running statistics in training: MMDetection's ``norm_eval``.

Neither of Detectron2's modes does this: "FrozenBN" freezes weight and bias as well, and "BN"
updates the statistics.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["keep_running_statistics"]


def keep_running_statistics(*modules: nn.Module) -> None:
    """Put every batch-normalization layer of ``modules`` into eval mode; its weights still learn.

    ``nn.Module.train`` undoes this, so a network calls it from its own ``train``.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()
