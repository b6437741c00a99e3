"""A file that grows and is whole at every moment, such as a JSON array with its last bracket."""

import contextlib
import os
from pathlib import Path
from typing import Any

from hrnet_d2.config_file import ConfigError

__all__ = ["AppendedFile"]


class AppendedFile:
    """A head, parts that are appended, and a tail that each new part overwrites and ends with."""

    def __init__(self, path: Path, head: bytes = b"", tail: bytes = b""):
        """
        Args:
            path: of the file.
            head, tail: what the file begins and ends with.
        """
        self.path = path
        self.head = head
        self.tail = tail
        self._file: Any = None
        self._end = 0

    @property
    def empty(self) -> bool:
        """Whether there is no part yet."""
        return self._end == len(self.head)

    def start(self, size: int | None) -> None:
        """Open the file.

        Args:
            size: bytes before the tail that are kept; None begins anew.

        Raises:
            ConfigError: if the file has fewer bytes.
        """
        if size is None:
            # Not truncated but replaced: a reader of the earlier file keeps it.
            self.path.unlink(missing_ok=True)
            self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115
            self._end = 0
            self._put(self.head)
            return
        have = self.path.stat().st_size if self.path.exists() else 0
        if have < size:
            raise ConfigError(
                f"{self.path} has {have} bytes and had {size} when the run was recorded: it was "
                "changed since. Begin anew with --overwrite, or give another --output"
            )
        self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        self._end = size
        self._file.truncate(size)
        self._put(b"")

    def append(self, part: bytes) -> None:
        """Add a part."""
        self._put(part)

    def flush(self) -> int:
        """Put everything on the disk; returns the bytes before the tail."""
        os.fsync(self._file.fileno())
        return self._end

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _put(self, part: bytes) -> None:
        # One call, so that a process that dies leaves a whole file.
        data = memoryview(part + self.tail)
        self._file.seek(self._end)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:  # a full disk: leave the file as it was
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
                self._file.write(self.tail)
            raise
        self._end += len(part)
