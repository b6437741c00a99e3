"""The output folder of a run: whose it is, what an earlier run left in it, and whether to go on."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hrnet_d2.config_file import ConfigError
from hrnet_d2.engine import RunFolderError
from hrnet_d2.engine.run_folder import claim, release

from .plan import check_targets
from .record import Record, folder_of, settings_changed
from .shards import Shard
from .sources import Unit
from .task import Task
from .writers import Writer

__all__ = ["claimed"]

_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part(\.\w+)?", re.DOTALL)  # of atomic_write


@contextlib.contextmanager
def claimed(
    output: Path, task: Task, units: Sequence[Unit], writers: Sequence[Writer]
) -> Iterator[Record]:
    """The record of a run, whose folder no other process uses until the end of the block.

    Args:
        output: the folder, which is created.
        task: what the run is to do; ``resume`` and ``overwrite`` decide about an earlier one.
        units: its inputs.
        writers: of its results.

    Raises:
        ConfigError: if the folder cannot be written or is in use, an output would replace an input
            or the results of an earlier run, or an earlier run had other settings.
    """
    suffix = task.shard.suffix
    earlier = Record.read(output, suffix)
    ours = task.overwrite or earlier is not None
    check_targets(output, units, task.shard, task.inputs, writers, ours)
    settings = {
        **task.settings,
        "formats": sorted(task.formats),
        "threshold": task.threshold,
        "track": task.track,
        "max_frames": task.max_frames,
        "shard": f"{task.shard.index}/{task.shard.count}",
        "inputs": list(task.inputs),
    }
    if earlier is not None and not task.overwrite:
        if task.resume:
            _check_same(output, earlier, settings, units, task.shard)
        elif tables := [t for writer in writers for t in writer.tables() if t.exists()]:
            raise ConfigError(
                f"{tables[0]} is of an earlier run: continue that run with --resume, replace it "
                "with --overwrite, or give another folder as --output"
            )
    folder = folder_of(output, suffix)
    try:
        output.mkdir(parents=True, exist_ok=True)
        claim(str(folder))
    except RunFolderError as error:
        raise ConfigError(
            f"--output {output} is in use by another run: wait for it to end, or give another "
            f"folder ({error})"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be written ({error.strerror}): give a folder in which you "
            "may create files"
        ) from error
    try:
        if earlier is None or not task.resume or task.overwrite:
            settings["list"] = _digest(units)
            record = Record.new(output, suffix, settings)
        else:
            record = earlier
            if task.shard.count == 1:  # other shards may be writing here
                _remove_parts(output)
        yield record
    finally:
        release(str(folder))


def _check_same(
    output: Path, earlier: Record, settings: dict[str, Any], units: Sequence[Unit], shard: Shard
) -> None:
    before = {key: value for key, value in earlier.settings.items() if key != "list"}
    if changed := settings_changed(before, settings):
        raise ConfigError(
            f"--resume: the run in {output} had other settings, and its results would be mixed "
            f"with others. {'; '.join(changed)}. Give the same, or another --output"
        )
    if shard.count > 1 and earlier.settings.get("list") != _digest(units):
        raise ConfigError(
            f"--resume: the inputs of the shard in {output} have changed, so that the numbers of "
            "images would no longer be those of the other shards. Give another --output"
        )


def _remove_parts(output: Path) -> None:
    """Remove what a process that was killed had begun to write aside."""
    for folder, _, names in os.walk(output):
        for name in names:
            if _PART.fullmatch(name):
                os.unlink(os.path.join(folder, name))


def _digest(units: Sequence[Unit]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for unit in units:
        digest.update(unit.source.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
