"""A folder that is there complete or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hrnet_d2.file_io import disk_full, is_disk_full

from .errors import ExportError
from .runtime import SETTINGS
from .settings import FORMATS

__all__ = ["new_folder", "refuse_existing"]

# What exports write, and what is left beside it by running their programs and looking at them.
WRITTEN = frozenset(
    (
        *(SETTINGS, "README.md", "detector.py", "check.json", "backbone.pt2"),
        *(graph for graph, _ in FORMATS.values()),
        *("detector.onnx.data", "detector.bin", "__pycache__", ".DS_Store"),
    )
)


def refuse_existing(target: Path, overwrite: bool) -> None:
    """
    Raises:
        ExportError: if there is something at ``target`` that must not be replaced, or no folder
            can be made there.
    """
    real = Path(os.path.realpath(target))
    if real in (Path.cwd(), *Path.cwd().parents):
        raise ExportError(f"{target} is the folder that this runs in: give a folder in it")
    if os.path.ismount(real):
        raise ExportError(f"{target} is mounted and cannot be replaced: give a folder in it")
    parent = real.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ExportError(f"{target} cannot be made: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ExportError(f"{target} cannot be made: {parent} cannot be written to")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise ExportError(f"{target} is a file: give a folder, which may be a new one")
    if not (target / SETTINGS).is_file():
        raise ExportError(
            f"{target} is not empty and no exported detector: give another folder, this one is "
            "not replaced"
        )
    if others := sorted({path.name for path in target.iterdir()} - WRITTEN):
        raise ExportError(
            f"{target} also holds {', '.join(others[:3])}{', ...' if others[3:] else ''}, which no "
            "export wrote: give another folder, this one is not replaced"
        )
    if not overwrite:
        raise ExportError(
            f"{target} has an exported detector: give another folder, or replace it with "
            "--overwrite"
        )


@contextlib.contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Fill a folder aside, then rename it to ``target``.

    Args:
        target: the folder, or a link to it; its parents are created.
        overwrite: replace an exported detector that is there.

    Yields:
        The folder to fill. If filling it fails, nothing is left of it.

    Raises:
        ExportError: as :func:`refuse_existing`.
        OSError: on a full disk the message names the target and the free space.
    """
    refuse_existing(target, overwrite)
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=".part", dir=target.parent))
    try:
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)  # mkdtemp keeps others out
        yield part
        refuse_existing(target, overwrite)
        if target.exists():
            old = part.with_suffix(".old")
            target.rename(old)
            try:
                part.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            part.rename(target)
    except BaseException as error:
        written = sum(file.stat().st_size for file in part.glob("*"))
        shutil.rmtree(part, ignore_errors=True)
        elsewhere = isinstance(error, OSError) and error.filename and not _lies_in(error, part)
        if is_disk_full(error) and not elsewhere:
            what = f"{written / 2**20:.1f} MiB of the export were written"
            raise disk_full(target, what, shutil.disk_usage(target.parent).free) from error
        raise


def _lies_in(error: OSError, folder: Path) -> bool:
    return folder in Path(os.fsdecode(error.filename)).parents
