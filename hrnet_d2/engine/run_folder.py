"""One run at a time in an output folder, and no run over the checkpoints of another by accident."""

import atexit
import contextlib
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

from hrnet_d2.config_file import ConfigError

__all__ = ["RunFolderError", "claim", "clear", "refuse_earlier_run", "release"]

logger = logging.getLogger(__name__)

LOCK = ".run.lock"
EVALUATIONS = "evaluations.json"  # what the best checkpoint was chosen from
# What identifies the holder is readable, so the locked byte lies behind it.
_LOCKED_BYTE = 2**20
_held: dict[str, IO[str]] = {}


class RunFolderError(ConfigError):
    """An output folder belongs to another run: which one, and what to do."""


def claim(folder: str) -> None:
    """Keep other processes from training in ``folder`` until this one ends.

    The lock belongs to the operating system, so that the lock of a killed run counts no more; the
    file says which process on which machine holds it, and since when.

    Args:
        folder: an output folder; created if it is missing.

    Raises:
        RunFolderError: if another run holds it.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(os.path.realpath(folder), LOCK)
    if path in _held:
        return
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (open while the run lasts)
    file.seek(0)
    holder = _parse(file.read())
    if not _lock(file):
        file.close()
        raise RunFolderError(
            f"OUTPUT_DIR {folder} is in use by another run ({_describe(holder)}), with whose logs, "
            "metrics and checkpoints this run's would be mixed. Wait for it to end, or set another "
            "OUTPUT_DIR"
        )
    if holder and holder["host"] != socket.gethostname():
        # Locks do not reach every network file system, so the file alone decides between machines.
        file.close()
        raise RunFolderError(
            f"OUTPUT_DIR {folder} is in use by a run on another machine ({_describe(holder)}). Set "
            f"another OUTPUT_DIR or, if that run has ended, delete {path}"
        )
    if holder:
        logger.warning("%s: the lock of a run that has ended (%s)", folder, _describe(holder))
    file.seek(0)
    file.truncate()
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started}, file)
    file.flush()
    if not _held:
        atexit.register(_release_all)
    _held[path] = file


def release(folder: str) -> None:
    """Let other runs have ``folder``, if this process holds it."""
    path = os.path.join(os.path.realpath(folder), LOCK)
    file = _held.pop(path, None)
    if file is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)
        file.close()


def refuse_earlier_run(folder: str) -> None:
    """
    Raises:
        RunFolderError: if ``folder`` has checkpoints, which a new run would replace.
    """
    found = _checkpoints(folder)
    if found:
        names = ", ".join(path.name for path in found[-3:])
        raise RunFolderError(
            f"OUTPUT_DIR {folder} has the checkpoints of an earlier run ({names}), which a new run "
            "would replace. Continue that run with --resume, set another OUTPUT_DIR for a new one, "
            "or delete the earlier run with --overwrite"
        )


def clear(folder: str) -> None:
    """Delete what an earlier run left, so that nothing is taken for the new run's: checkpoints,
    metrics and TensorBoard's curves."""
    metrics = [Path(folder, name) for name in ("metrics.json", EVALUATIONS)]
    curves = Path(folder).glob("events.out.tfevents.*")
    for path in [*_checkpoints(folder), *metrics, *curves]:
        path.unlink(missing_ok=True)


def _checkpoints(folder: str) -> list[Path]:
    if not os.path.isdir(folder):
        return []
    return sorted([*Path(folder).glob("model_*.pth"), *Path(folder).glob("last_checkpoint")])


def _release_all() -> None:
    for path in list(_held):
        release(os.path.dirname(path))


def _parse(text: str) -> dict[str, str] | None:
    try:
        holder = json.loads(text)
        return {key: str(holder[key]) for key in ("pid", "host", "started")}
    except (ValueError, KeyError, TypeError):
        return None


def _describe(holder: dict[str, str] | None) -> str:
    if holder is None:
        return "unknown process"
    return f"process {holder['pid']} on {holder['host']}, started {holder['started']}"


def _lock(file: IO[str]) -> bool:
    """Lock a byte for this process alone; the system unlocks it when the process ends."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            # Of the process, not of the open file: data loading workers do not inherit it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED_BYTE)
    except OSError:
        return False
    return True
