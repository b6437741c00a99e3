"""The record of a run in its output folder: settings, what is done, and how long the tables are.

It makes a run that was stopped, killed even, go on without a row lost or twice: a table is cut to
the length that the record states, and what the record does not name is predicted again.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrnet_d2.config_file import ConfigError
from hrnet_d2.file_io import atomic_write

__all__ = ["Done", "Record", "folder_of", "settings_changed"]

FOLDER = "prediction_record"
VERSION = 1


def folder_of(output: Path, suffix: str = "") -> Path:
    """Where the record of a run is.

    Args:
        output: of the run.
        suffix: of a shard, which has its own.
    """
    return output / f"{FOLDER}{suffix}"


@dataclass(slots=True)
class Done:
    """A unit, or a member of one, that is done."""

    number: int
    name: str
    stem: str
    failed: bool = False
    images: int = 1


@dataclass
class Record:
    """What a run wrote down."""

    path: Path
    settings: dict[str, Any]
    done: dict[str, Done] = field(default_factory=dict)
    """What was done when the record was read, by source."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes, or parts, of each table that belong to what is done."""

    @classmethod
    def new(cls, output: Path, suffix: str, settings: dict[str, Any]) -> "Record":
        """Begin a record, in place of an earlier one.

        Args:
            output: folder of the run, which exists.
            suffix: of a shard, or "".
            settings: of the run, as JSON.
        """
        folder = folder_of(output, suffix)
        folder.mkdir(exist_ok=True)
        record = cls(folder / "done", settings)
        record.path.unlink(missing_ok=True)
        with atomic_write(folder / "settings") as part:
            text = json.dumps({"version": VERSION, **settings}, indent=1)
            Path(part).write_text(text, encoding="utf-8")
        return record

    @classmethod
    def read(cls, output: Path, suffix: str) -> "Record | None":
        """The record of an earlier run, or None.

        Raises:
            ConfigError: if it is damaged, or of another version.
        """
        folder = folder_of(output, suffix)
        try:
            settings = json.loads((folder / "settings").read_text(encoding="utf-8"))
            if settings.pop("version") != VERSION:
                raise ValueError(f"version {VERSION} is expected")
        except FileNotFoundError:
            return None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{folder / 'settings'} is no record of a prediction ({error}): remove "
                f"{folder}, or give another --output"
            ) from error
        record = cls(folder / "done", settings)
        record._read_done()
        return record

    def _read_done(self) -> None:
        if not self.path.exists():
            return
        whole = 0
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    entry: Any = json.loads(line) if line.endswith(b"\n") else None
                    done = {row[0]: Done(*row[1:]) for row in entry["done"]}
                    sizes = {str(k): int(v) for k, v in entry["sizes"].items()}
                except (AttributeError, KeyError, TypeError, ValueError):
                    break  # the process died while it wrote this
                self.done.update(done)
                self.sizes = sizes
                whole += len(line)
        if whole < self.path.stat().st_size:
            with open(self.path, "r+b") as file:
                file.truncate(whole)

    def add(self, done: Mapping[str, Done], sizes: Mapping[str, int]) -> None:
        """Write down what has become done; what it says must be on the disk already."""
        rows = [[k, d.number, d.name, d.stem, d.failed, d.images] for k, d in done.items()]
        line = json.dumps({"done": rows, "sizes": dict(sizes)}) + "\n"
        with open(self.path, "ab") as file:
            file.write(line.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())

    def names(self) -> Iterator[tuple[str, str]]:
        """Names and stems of what is done."""
        for done in self.done.values():
            yield done.name, done.stem


def settings_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each setting that two runs do not share; inputs may differ."""
    keys = [key for key in {**before, **now} if key != "inputs"]
    return [
        f"{key}: {before.get(key)!r} before, {now.get(key)!r} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]
