"""Checkpoints of this and other projects: read safely, renamed, and matched to a model."""

from .checkpointer import Checkpointer
from .converting import Conversion, convert
from .errors import CheckpointError, UnsafeCheckpointError
from .loading import Checkpoint, load_file
from .saved_files import find_last
from .values import non_finite

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Checkpointer",
    "Conversion",
    "UnsafeCheckpointError",
    "convert",
    "find_last",
    "load_file",
    "non_finite",
]
