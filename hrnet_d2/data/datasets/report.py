"""Problems of a dataset, collected so that a user sees all of them at once."""

import logging
import os
from collections.abc import Iterable
from typing import Any

from hrnet_d2.text import message_of, printable

__all__ = ["DatasetError", "Report", "entry_id", "some"]

SHOWN = 5  # examples of a kind of problem in a message
LONGEST = 60  # characters of an example


class DatasetError(ValueError):
    """A dataset cannot be used as it is; the message names its file and every problem."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message_of(message))


class Report:
    """What is wrong with a file: errors, warnings, and what was repaired."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = path
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.repairs: list[str] = []
        # Annotations whose segmentation has no pixel, if a model of masks is to learn from it.
        self.without_pixels: list[dict] = []

    def raise_errors(self) -> None:
        """
        Raises:
            DatasetError: if there are errors; the message has all of them.
        """
        if self.errors:
            raise DatasetError(
                f"{self.path} cannot be used as it is:" + "".join(f"\n  - {e}" for e in self.errors)
            )

    def log_warnings(self, logger: logging.Logger) -> None:
        for warning in self.warnings:
            logger.warning("%s: %s", self.path, warning)


def some(values: Iterable[Any], longest: int = LONGEST) -> str:
    """The first of many values, for a message.

    Args:
        values: of any kind.
        longest: characters of a value, whose middle is left out if it has more.
    """
    values = list(values)
    shown = ", ".join(_short(v, longest) for v in values[:SHOWN])
    return shown + (f", ... ({len(values)} in all)" if len(values) > SHOWN else "")


def entry_id(entry: dict) -> Any:
    """The id of an entry, for a message."""
    return entry.get("id", "none")


def _short(value: Any, longest: int) -> str:
    text = printable(f"{float(value):.3g}" if _is_long(value) else str(value))
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def _is_long(value: Any) -> bool:
    """Whether a number has more digits than a message takes, and fits a float."""
    return type(value) is int and 10**30 < abs(value) < 10**300
