"""What can go wrong in an export, beyond errors of configs and files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hrnet_d2.config_file import ConfigError

if TYPE_CHECKING:
    from .checking import Comparison

__all__ = ["ExportError", "ExportMismatchError"]


class ExportError(ConfigError):
    """A model cannot be exported as asked: what is in the way, and what to do."""


class ExportMismatchError(ExportError):
    """An export and the model that it was made from disagree.

    Attributes:
        comparisons: one for each image.
    """

    def __init__(self, message: str, comparisons: Sequence["Comparison"]):
        super().__init__(message)
        self.comparisons = list(comparisons)
