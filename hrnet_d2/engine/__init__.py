"""Training, evaluation and prediction."""

from .default_predictor import ExactPredictor
from .hooks import DivergedError
from .launch import launch
from .memory import MemoryExhaustedError
from .predictor import Predictor
from .run_folder import RunFolderError
from .setup import argument_parser, setup
from .trainer import Trainer, evaluate

__all__ = [
    "DivergedError",
    "ExactPredictor",
    "MemoryExhaustedError",
    "Predictor",
    "RunFolderError",
    "Trainer",
    "argument_parser",
    "evaluate",
    "launch",
    "setup",
]
