"""The cache folder, for files that this package generates."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "cached_json", "name_without_digest", "write_once"]

VARIABLE = "HRNET_D2_CACHE"


def cache_folder() -> Path:
    """The folder that the environment variable HRNET_D2_CACHE names, or ~/.cache/hrnet_d2."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/hrnet_d2").expanduser().absolute()


def write_once(target: Path, write: Callable[[Path], object]) -> Path:
    """Create ``target``, a file or folder, unless it exists; completely or not at all.

    Several processes may do so at the same time: each writes its own copy in the same folder, and
    the first to finish renames it into place.

    Args:
        target: what to create.
        write: creates it at the path that it is given.

    Returns:
        ``target``.

    Raises:
        OSError: if the folder cannot be written; the message names it and the environment
            variable that changes it.
    """
    if target.exists():
        return target
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        # Readable for the other users of a shared folder, unlike mkdtemp's.
        made = scratch / target.name
        write(made)
        try:
            os.rename(made, target)
        except OSError:
            if not target.exists():  # another process was first, otherwise
                raise
    except OSError as error:
        raise OSError(
            f"Cannot write {target}: {error}. Set the environment variable {VARIABLE} to a folder "
            "with free space that you may write to"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def cached_json(data: Any, stem: str) -> Path:
    """A JSON file in the cache with this content, from which its name is made.

    Args:
        data: what to write.
        stem: the start of the file's name.

    Raises:
        OSError: see :func:`write_once`.
    """
    text = json.dumps(data)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    target = cache_folder() / "annotations" / f"{stem}_{digest}.json"
    return write_once(target, lambda path: path.write_text(text, "utf-8"))


def name_without_digest(path: str | os.PathLike[str]) -> str:
    """The name of a file; of one that :func:`cached_json` wrote, with its stem alone."""
    path = Path(path)
    if path.parent != cache_folder() / "annotations":
        return path.name
    return re.sub(r"_[0-9a-f]{16}$", "", path.stem) + path.suffix
