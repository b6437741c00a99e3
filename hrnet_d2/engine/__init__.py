"""Training, evaluation and prediction."""

from .launch import launch
from .predictor import Predictor
from .setup import argument_parser, device_of, load_config, setup
from .trainer import Trainer, evaluate

__all__ = [
    "Predictor",
    "Trainer",
    "argument_parser",
    "device_of",
    "evaluate",
    "launch",
    "load_config",
    "setup",
]
