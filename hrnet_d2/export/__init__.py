"""Exports for runtimes other than PyTorch, and what runs them."""

from .errors import ExportError, ExportMismatchError
from .exporting import Export, export
from .predictor import ExportedPredictor, load
from .settings import DTYPES, FORMATS

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
