"""Exports for runtimes other than PyTorch, and what runs them."""

from .errors import ExportError, ExportMismatchError
from .exporting import DTYPES, FORMATS, Export, export
from .predictor import ExportedPredictor, load

__all__ = [
    "DTYPES",
    "FORMATS",
    "Export",
    "ExportError",
    "ExportMismatchError",
    "ExportedPredictor",
    "export",
    "load",
]
