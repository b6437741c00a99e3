"""What a run is to do, and how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .result import Prediction
from .shards import Shard
from .sources import Unit, expand

__all__ = ["Summary", "Task", "find_units"]


@dataclass
class Task:
    """What to predict on, and what to write."""

    inputs: Sequence[str]
    output: Path
    formats: Sequence[str] = ("draw",)
    threshold: float | None = None
    """Least score; None is 0.5 for formats that people look at, and all for the others."""
    resume: bool = False
    overwrite: bool = False
    shard: Shard = field(default_factory=Shard)
    track: str | None = None
    max_frames: int = 0
    category_ids: Sequence[int] = ()
    image_ids: Callable[[Prediction], int] | None = None
    """Of the images in COCO files; None numbers them from 1 in the order of the inputs."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else decides the results, such as the checkpoint: ``resume`` compares it."""
    units: Sequence[Unit] | None = None
    """What :func:`find_units` found; None looks for it."""
    progress: bool = False


@dataclass
class Summary:
    """How a run ended."""

    images: int = 0
    """Predicted on, or failed, in this run."""
    failed: int = 0
    skipped: int = 0
    """Done by earlier runs."""
    skipped_failed: int = 0
    signal: int = 0
    """That stopped the run, or 0."""
    seconds: float = 0.0
    network_seconds: float = 0.0
    """Summed over the streams."""


def find_units(task: Task) -> list[Unit]:
    """What the inputs of a task stand for.

    Raises:
        FileNotFoundError: if an input does not exist.
        ConfigError: if one cannot be used.
    """
    return expand(task.inputs, leave_out=task.output, max_frames=task.max_frames)
