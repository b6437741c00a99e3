"""Errors about checkpoints."""

import pickle

__all__ = ["CheckpointError", "UnsafeCheckpointError"]


class CheckpointError(RuntimeError):
    """A file that cannot be read, is not recognized, or does not match the model."""


class UnsafeCheckpointError(CheckpointError, pickle.UnpicklingError):
    """A pickle that refers to something other than tensors and plain data; none of it was run."""
