"""The checkpoints in a run's folder: which one a training resumes from."""

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from .errors import CheckpointError
from .reading import read_file

__all__ = ["BEST", "LAST", "find_last", "remove_leftovers"]

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
BEST = "model_best.pth"  # weights alone, so that nothing can resume from it


def find_last(folder: str) -> str:
    """The checkpoint to resume from.

    It is the file that ``last_checkpoint`` names, if it is whole. Otherwise (a process was killed,
    a disk was full, a file was deleted) it is the newest whole checkpoint in the folder, which is
    logged.

    Args:
        folder: the run's folder.

    Returns:
        The path; empty if the folder has no checkpoint.

    Raises:
        CheckpointError: if ``last_checkpoint`` is there and no whole checkpoint is.
    """
    tag = Path(folder, LAST)
    problem = f"{tag} is missing"
    has_tag = tag.is_file()
    if has_tag:
        name = tag.read_bytes().decode("utf-8", "replace").strip()
        if not name or "\0" in name:
            problem = f"{tag} is empty or damaged"
        elif name != os.path.basename(name):
            problem = f"{tag} names {name!r}, which is not in the folder"
        else:
            path = os.path.join(folder, name)
            damage = _damage(path)
            if not damage:
                return path
            problem = f"{tag} names {name}, which cannot be used: {damage}"
    for candidate in _newest_first(folder):
        damage = _damage(str(candidate))
        if not damage:
            logger.warning(f"{problem}. Resuming from {candidate}, the newest whole checkpoint")
            return str(candidate)
        logger.warning(f"{candidate} is not resumed from: {damage}")
    if has_tag:
        raise CheckpointError(
            f"{folder} has nothing to resume from: {problem}, and no other checkpoint in it is "
            f"whole. To start from the beginning, delete {tag} or leave out --resume"
        )
    return ""


def _newest_first(folder: str) -> list[Path]:
    """Files that a training may have saved, by time of writing; not unfinished ones."""
    found = [
        path
        for path in Path(folder).glob("*.pth")
        if not path.name.startswith(".") and path.name != BEST and path.is_file()
    ]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def _damage(path: str) -> str:
    """What keeps a file from being resumed from; empty if nothing does."""
    if not os.path.isfile(path):
        return "there is no such file"
    status = os.stat(path)
    return _damage_of(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _damage_of(path: str, mtime: int, size: int) -> str:
    """As above; reads a file once for each version of it."""
    try:
        content = read_file(path).content
    except CheckpointError as error:
        return str(error)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        return "it was not saved by a training of this package or of Detectron2"
    return ""


def remove_leftovers(path: str) -> None:
    """Delete unfinished versions of a file that killed processes left in its folder."""
    folder, name = os.path.split(path)
    for entry in os.scandir(folder or "."):
        if entry.name.startswith(f".{name[:64]}.") and ".part" in entry.name:
            try:
                os.unlink(entry.path)
            except OSError as error:
                logger.warning(f"{entry.path}, left over from an earlier save, stays: {error}")
