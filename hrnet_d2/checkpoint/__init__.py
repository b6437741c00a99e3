"""Weights of other projects come in here: read safely, renamed, accounted for."""

from .checkpointer import Checkpointer
from .errors import CheckpointError, UnsafeCheckpointError
from .loading import Checkpoint, load_file

__all__ = ["Checkpoint", "CheckpointError", "Checkpointer", "UnsafeCheckpointError", "load_file"]
