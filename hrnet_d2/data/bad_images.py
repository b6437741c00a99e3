"""Images of the training data that cannot be read or used: left out within a budget."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["BadImageError", "SkippingMapper"]

logger = logging.getLogger(__name__)

# What reading an image, a semantic map or the annotations of a record raises.
_ERRORS = (OSError, ValueError, RuntimeError, MemoryError)


class BadImageError(ValueError):
    """More images could not be used than may be left out: how many, and the last one."""


class SkippingMapper:
    """Replaces a record that its mapper cannot read by the next one of the same orientation.

    The replacement depends on the record alone, so that a resumed run has the same; files that are
    known to be bad are not read again. The processes that read images count together.
    """

    def __init__(
        self,
        mapper: Callable[[dict], Any],
        records: Any,
        wide: np.ndarray,
        budget: int,
    ):
        """
        Args:
            mapper: from a record to the model's input.
            records: of the dataset.
            wide: (N,) bool, the orientation of each image.
            budget: the most records that may be left out.
        """
        self.mapper = mapper
        self.records = records
        self.wide = wide
        self.budget = budget
        # Numbers of bad records, plus one: shared with the workers of the loader.
        self._bad: Any = multiprocessing.Array("q", budget + 1)

    def __call__(self, index: int) -> Any:
        """
        Args:
            index: of a record.

        Raises:
            BadImageError: if the budget is used up; its cause is the error of the last image.
        """
        for candidate in self._candidates(index):
            if candidate + 1 in self._bad[:]:
                continue
            record = self.records[candidate]
            try:
                return self.mapper(record)
            except _ERRORS as error:
                self._count(candidate, str(record.get("file_name")), error)
        raise BadImageError("No image of the training data can be used")

    def _candidates(self, index: int) -> Iterator[int]:
        """The record, then those after it of its orientation, then all others."""
        order = (index + np.arange(len(self.wide))) % len(self.wide)
        same = self.wide[order] == self.wide[index]
        yield from map(int, order[same])
        yield from map(int, order[~same])

    def _count(self, index: int, file: str, error: BaseException) -> None:
        with self._bad.get_lock():
            known = [number for number in self._bad.get_obj() if number]
            if index + 1 in known:
                return
            if len(known) >= self.budget:
                raise BadImageError(
                    f"{file} cannot be used ({error}), after {len(known)} other images that were "
                    f"left out: DATALOADER.MAX_BAD_IMAGES is {self.budget}"
                ) from error
            self._bad.get_obj()[len(known)] = index + 1
        logger.warning(
            "Left out %s: %s (%d of DATALOADER.MAX_BAD_IMAGES %d)",
            *(file, error, len(known) + 1, self.budget),
        )
