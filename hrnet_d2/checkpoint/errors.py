"""What goes wrong with a checkpoint, by kind."""

import pickle

__all__ = ["CheckpointError", "UnsafeCheckpointError"]


class CheckpointError(RuntimeError):
    """A file that cannot be read, is not recognized or does not fit the model."""


class UnsafeCheckpointError(CheckpointError, pickle.UnpicklingError):
    """A pickle that names something other than tensors and plain data; nothing of it was run."""
