"""Writing files so that a reader, or a crash, never meets half of one."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_write", "disk_full", "is_disk_full"]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], need: int = 0) -> Iterator[str]:
    """Write a file aside, flush it to disk, and rename it over ``path``.

    ::

        with atomic_write("model.pth") as part:
            torch.save(state, part)

    A file that was at ``path`` stays as it is until the new one is complete, and for good if
    writing fails or the process dies.

    Args:
        path: the file to write; its folder must exist.
        need: about the bytes that it will have, if known; nothing is written if fewer are free.

    Yields:
        A path in the same folder to write to, with the same suffix.

    Raises:
        OSError: if the file cannot be written; on a full disk the message names the file, the bytes
            that are needed, or were written until then, and the free space.
    """
    target = Path(path)
    try:
        if need > (free := shutil.disk_usage(target.parent).free):
            raise disk_full(target, f"the new file needs {need / 2**20:.1f} MiB", free)
        handle, part = tempfile.mkstemp(
            prefix=f".{target.name[:64]}.", suffix=f".part{target.suffix}", dir=target.parent
        )
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        # The name of the file aside would tell nobody anything.
        reason = error.strerror
        if not target.parent.is_dir():
            reason = f"There is no folder {target.parent} to write this file to"
        raise type(error)(error.errno, reason, str(target)) from error
    os.close(handle)
    try:
        # mkstemp keeps others out; a file of the user's own has the mode that the umask says.
        os.chmod(part, _default_mode(target))
        yield part
        _sync(part)
        os.replace(part, target)
    except BaseException as error:
        written = os.path.getsize(part) if os.path.exists(part) else 0
        with contextlib.suppress(OSError):
            os.unlink(part)
        if is_disk_full(error):
            size = f" of {need / 2**20:.1f}" if need else ""
            what = f"{written / 2**20:.1f}{size} MiB of the new file were written"
            raise disk_full(target, what, shutil.disk_usage(target.parent).free) from error
        raise
    _sync(target.parent)


def disk_full(target: Path, what: str, free: int) -> OSError:
    """The error of a disk on which there is no room for ``target``.

    Args:
        target: the file, or folder, that could not be written.
        what: how much it needs, or how much of it was written.
        free: bytes.
    """
    return OSError(
        errno.ENOSPC,
        f"The disk is full: {what}, {free / 2**20:.1f} MiB are free now. Free some space and "
        "repeat; what was at this path before is unchanged",
        str(target),
    )


def is_disk_full(error: BaseException) -> bool:
    """Also as the writers of torch, safetensors and OpenVINO report it, without a number.

    A limit of the process or of the file system on the size of a file looks the same to them.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    text = str(error)
    return isinstance(error, Exception) and any(
        words in text
        for words in (
            "No space left on device",
            "File too large",
            "unexpected pos",
            "PytorchStreamWriter failed writing",
            "iostream error",
        )
    )


def _default_mode(target: Path) -> int:
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _sync(path: str | os.PathLike[str]) -> None:
    """Flush a file, or the entries of a folder, to disk; systems without the latter skip it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
