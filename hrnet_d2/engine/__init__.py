"""Training, evaluation and prediction."""

from .launch import launch, share_cpu
from .predictor import Predictor
from .setup import argument_parser, device_of, load_config
from .trainer import Trainer, evaluate

__all__ = [
    "Predictor",
    "Trainer",
    "argument_parser",
    "device_of",
    "evaluate",
    "launch",
    "load_config",
    "share_cpu",
]
