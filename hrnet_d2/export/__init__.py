"""Exports for runtimes other than PyTorch, and what runs them."""

from .errors import ExportError
from .exporting import DTYPES, FORMATS, Export, export
from .predictor import ExportedPredictor, load

__all__ = [
    "DTYPES",
    "FORMATS",
    "Export",
    "ExportError",
    "ExportedPredictor",
    "export",
    "load",
]
