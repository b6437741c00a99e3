"""Training, evaluation and prediction."""

from .launch import launch
from .predictor import Predictor
from .setup import argument_parser, setup
from .trainer import Trainer, evaluate

__all__ = [
    "Predictor",
    "Trainer",
    "argument_parser",
    "evaluate",
    "launch",
    "setup",
]
