"""Errors about checkpoints."""

import pickle

from hrnet_d2.text import message_of

__all__ = ["CheckpointError", "UnsafeCheckpointError"]


class CheckpointError(RuntimeError):
    """A file that cannot be read, is not recognized, or does not match the model.

    Its message may quote names from the file. It is bounded in length, and characters that a
    terminal would obey are escaped.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message_of(message))


class UnsafeCheckpointError(CheckpointError, pickle.UnpicklingError):
    """A pickle that refers to something other than tensors and plain data; none of it was run."""
