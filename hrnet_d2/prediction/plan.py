"""What a run predicts on, under which names and numbers; and what it must not overwrite."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hrnet_d2.config_file import ConfigError

from .record import Record
from .shards import Shard
from .sources import Item, Names, Unit
from .sources.remote import is_url
from .sources.video import camera_index
from .writers import Writer
from .writers.draw import DrawWriter, video_name

__all__ = ["Plan", "check_targets"]

# Numbers that each unit has for its images, where units have several.
STRIDE = 2**24


class Plan:
    """The images of a run that are still to do."""

    def __init__(self, units: Sequence[Unit], shard: Shard, record: Record):
        """
        Args:
            units: all inputs, also those of other shards.
            shard: which of them are predicted on.
            record: of the run, with what an earlier one has done.
        """
        self.units = units
        self.shard = shard
        self.record = record
        several = sum(not unit.single for unit in units)
        self.stride = STRIDE if several and len(units) > 1 else 1
        # One archive is divided by its members, several are given to shards as they are.
        self.by_member = sum(not (unit.single or unit.whole) for unit in units) == 1
        self._numbers = self._first_numbers()

    def _first_numbers(self) -> list[int]:
        """Of each unit its first image's number: its place, or what the record says."""
        done = self.record.done
        if not done:
            return [i * self.stride for i in range(len(self.units))]
        known = {u.source: done[u.source].number for u in self.units if u.source in done}
        taken = {d.number // self.stride for d in done.values()}
        after = max(len(self.units), max(taken, default=-1) + 1)
        numbers = []
        for i, unit in enumerate(self.units):
            if unit.source in known:
                number = known[unit.source]
            elif unit.single and i in taken:
                number, after = after * self.stride, after + 1
            else:
                number = i * self.stride
            numbers.append(number)
        return numbers

    def total(self) -> int | None:
        """The number of images that are to do, as far as it is known without reading them."""
        total = 0
        for unit in self.units:
            if unit.single:
                total += self._wants(unit, unit.source)
            elif (count := unit.count()) is None:
                return None
            elif self._wants(unit, unit.source):
                total += count
        return total

    def _wants(self, unit: Unit, source: str) -> bool:
        return source not in self.record.done and self.shard.has(unit.name)

    def items(self) -> Iterator[Item]:
        """The images, with their names and numbers."""
        names = Names(self.record.names())
        for unit, first in zip(self.units, self._numbers, strict=True):
            here = self.shard.has(unit.name)
            if unit.single:
                claimed = names.claim(unit.name)  # names are the same in all shards
            if not here and not self._divided(unit):
                continue
            if not (unit.single or unit.whole):
                inside = Names(self.record.names()) if self.record.done else Names()
            for index, item in enumerate(unit.items(self._wanted(unit))):
                item.number = first + index
                if item.source in self.record.done:
                    continue
                if unit.single:
                    item.name, item.stem = claimed
                elif unit.whole:
                    item.name, item.stem = item.wanted, os.path.splitext(item.wanted)[0]
                else:
                    item.name, item.stem = inside.claim(item.wanted)
                known = item.read is not None or item.image is not None
                if known or (item.error and (here or item.source != unit.source)):
                    yield item

    def _divided(self, unit: Unit) -> bool:
        """Whether shards share the members of a unit."""
        return self.by_member and not (unit.single or unit.whole)

    def _wanted(self, unit: Unit) -> Callable[[str], bool]:
        done = self.record.done
        if not self._divided(unit):
            return lambda source: source not in done
        start = len(unit.source)
        return lambda source: source not in done and self.shard.has(unit.name + source[start:])


def check_targets(
    output: Path,
    units: Sequence[Unit],
    shard: Shard,
    inputs: Sequence[str],
    writers: Sequence[Writer],
    ours: bool,
) -> None:
    """Refuse to write over an input, or over files that no earlier run made.

    Args:
        output: folder of the run.
        units: all inputs.
        shard: which of them are predicted on.
        inputs: as the user named them.
        writers: of the run.
        ours: what lies in the folder is of an earlier run, or may be overwritten.

    Raises:
        ConfigError: naming the file, and what to do.
    """
    taken = _Taken(output, [*(unit.source for unit in units), *inputs])
    for table in (path for writer in writers for path in writer.tables()):
        if table in taken:
            raise ConfigError(_replaces(table))
        if not ours and table.exists():
            raise ConfigError(_foreign(table))
    names = Names()
    for unit in units:
        if unit.single:
            name, stem = names.claim(unit.name)
            targets = [writer.target(name, stem) for writer in writers if shard.has(unit.name)]
        elif unit.whole and shard.has(unit.name):
            drawn = any(isinstance(writer, DrawWriter) for writer in writers)
            targets = [output / video_name(f"{unit.name}/0")] if drawn else []
        else:
            continue
        for target in targets:
            if target is None:
                continue
            if target in taken:
                raise ConfigError(_replaces(target, unit.source))
            if not ours and target.exists():
                raise ConfigError(_foreign(target))


def _replaces(target: Path, source: str = "") -> str:
    what = f"The drawing of {source}" if source else "The results"
    return f"{what} would replace the input {target}: give another folder as --output"


def _foreign(target: Path) -> str:
    return (
        f"{target} is there already, and no earlier run of this command wrote it: give another "
        "folder as --output, or --overwrite"
    )


class _Taken:
    """Files that are inputs, as far as they lie in the output folder or below."""

    def __init__(self, output: Path, sources: Sequence[str]):
        self.output = os.path.realpath(output)
        self._folders: dict[str, str] = {}
        self._files = set()
        for source in sources:
            if is_url(source) or camera_index(source) is not None or source == "-":
                continue
            folder, name = os.path.split(source)
            folder = self._real(folder)
            if folder == self.output or folder.startswith(self.output + os.sep):
                # Without regard to case, as some file systems compare names.
                self._files.add((folder, name.casefold()))

    def _real(self, folder: str) -> str:
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder or ".")
        return self._folders[folder]

    def __contains__(self, path: Path) -> bool:
        if not self._files:
            return False
        return (self._real(str(path.parent)), path.name.casefold()) in self._files
