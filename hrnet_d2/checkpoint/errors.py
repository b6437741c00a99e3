"""Errors about checkpoints."""

import pickle
import re

from hrnet_d2.text import printable

__all__ = ["CheckpointError", "UnsafeCheckpointError"]


_LONGEST_WORD = 300  # longer than any file name
_LONG = re.compile(rf"[^\s/\\]{{{_LONGEST_WORD},}}")
_LONGEST_MESSAGE = 4500


class CheckpointError(RuntimeError):
    """A file that cannot be read, is not recognized, or does not match the model.

    Its message may quote names from the file. It is bounded in length, and characters that a
    terminal would obey are escaped.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_bounded(printable(message, keep="\n")))


class UnsafeCheckpointError(CheckpointError, pickle.UnpicklingError):
    """A pickle that refers to something other than tensors and plain data; none of it was run."""


def _bounded(text: str) -> str:
    text = _LONG.sub(lambda word: f"{word[0][:80]}... ({len(word[0])} characters)", text)
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[: _LONGEST_MESSAGE - 500]} ... {text[-400:]}"
    return text
