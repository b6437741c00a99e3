"""Arguments of ``hrnet-d2 eval``: those of training."""

from .train import parser

__all__ = ["parser"]
