"""What Ray Data reads: the user's Parquet files, or lists that are written as such."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hrnet_d2.config_file import ConfigError

from .sources import expand
from .writers.parquet import import_pyarrow

__all__ = ["Columns", "find_columns", "is_parquet", "write_manifest"]

PATHS = ("image", "path", "url", "uri", "file_name")
BYTES = ("bytes", "content", "data")
ROWS_OF_A_FILE = 100_000  # of the manifest


@dataclass(frozen=True)
class Columns:
    """Of the Parquet files that are read."""

    path: str
    """Paths or URLs; if there are bytes, their names. Each is there once."""
    data: str | None = None
    """Encoded images, if the files hold them."""


def is_parquet(inputs: Sequence[str]) -> bool:
    """Whether inputs are Parquet files, or folders that are named so.

    Raises:
        ConfigError: if some are and others are not.
    """
    found = [text.rstrip("/").lower().endswith((".parquet", ".pq")) for text in inputs]
    if any(found) and not all(found):
        raise ConfigError("--input has Parquet files and other inputs: give one kind")
    return all(found)


def find_columns(names: Sequence[str]) -> Columns:
    """The columns of paths and of bytes.

    Raises:
        ConfigError: if there is none of paths.
    """
    path = next((name for name in PATHS if name in names), None)
    if path is None:
        raise ConfigError(
            f"The Parquet files of --input have the columns {', '.join(names)}: name one of paths "
            f"or URLs {PATHS[0]!r} or {PATHS[1]!r}, and one of encoded images {BYTES[0]!r}"
        )
    return Columns(path, next((name for name in BYTES if name in names), None))


def write_manifest(inputs: Sequence[str], folder: str, output: str, files: Any) -> int:
    """List inputs as Parquet files, which all machines read.

    Args:
        inputs: images, folders, patterns, lists and URLs.
        folder: to write to.
        output: of the run, which is no input.
        files: fsspec's file system of ``folder``.

    Returns:
        The number of images.

    Raises:
        ConfigError: if an input is a video or an archive.
    """
    pa = import_pyarrow()
    units = expand(inputs, leave_out=None if "://" in output else output)
    for unit in units:
        if not unit.single:
            raise ConfigError(
                f"{unit.source}: the engine ray takes images, lists of them, and Parquet files; "
                "give videos and archives to several runs with --shard"
            )
    files.makedirs(folder, exist_ok=True)
    for number, rows in enumerate(_chunks([_absolute(unit.source) for unit in units])):
        table = pa.table({PATHS[0]: pa.array(rows, pa.string())})
        with files.open(f"{folder}/inputs-{number:05d}.parquet", "wb") as file:
            pa.parquet.write_table(table, file)
    return len(units)


def _absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(source)


def _chunks(rows: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(rows), ROWS_OF_A_FILE):
        yield rows[start : start + ROWS_OF_A_FILE]
