"""Training, evaluation and prediction."""

from .launch import launch
from .predictor import Predictor
from .setup import argument_parser, read_config, setup
from .trainer import Trainer, evaluate

__all__ = [
    "Predictor",
    "Trainer",
    "argument_parser",
    "evaluate",
    "launch",
    "read_config",
    "setup",
]
