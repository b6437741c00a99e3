"""Names of output files: relative, safe on every system, and unique."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

__all__ = ["Names", "apart", "safe_name"]

# What a name from an archive or a URL may not have: Windows forbids these, and a terminal or a
# list of names would obey control characters.
_UNSAFE = re.compile('[\x00-\x1f\x7f<>:"|?*\\\\]')
# Devices of Windows, whatever their suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LONGEST = 200  # characters of a part of a name; systems allow 255 bytes


def safe_name(text: str) -> str:
    """A relative path without ``..``, from the name of a member of an archive or a URL.

    It never leads out of the folder that it is joined to.
    """
    parts = []
    for part in text.replace("\\", "/").split("/"):
        part = _UNSAFE.sub("_", part).strip()
        if part in ("", ".", ".."):
            continue
        if _DEVICES.fullmatch(part):
            part = f"_{part}"
        if len(part.encode("utf-8", "replace")) > LONGEST:
            suffix = PurePosixPath(part).suffix[:10]
            part = part.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore") + suffix
        parts.append(part.rstrip(". ") or "_")
    return "/".join(parts) or "_"


def apart(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Names under which files lie apart in one folder.

    Args:
        names: relative paths.
        folders: where each is relative to, as absolute paths or URLs.

    Returns:
        The names; of those that are equal without regard to case, each gets as many of its
        folders in front as tell it from the others.
    """
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name.casefold(), []).append(i)
    result = list(names)
    for same in groups.values():
        if len(same) == 1:
            continue
        parts = {i: [p for p in re.split(r"[/\\]", folders[i]) if p] for i in same}
        shared = len(os.path.commonprefix([parts[i] for i in same]))
        for i in same:
            prefix = [safe_name(p) for p in parts[i][shared:]]
            result[i] = "/".join([*prefix, names[i]])
    return result


class Names:
    """Gives out names; one that is taken, without regard to case, gets a number."""

    def __init__(self, taken: Iterable[tuple[str, str]] = ()):
        """
        Args:
            taken: names and stems that are not given out.
        """
        self._names: set[int] = set()  # hashes: a tenth of the names' own memory
        self._stems: set[int] = set()
        for name, stem in taken:
            self._names.add(_key(name))
            self._stems.add(_key(stem))

    def claim(self, wanted: str) -> tuple[str, str]:
        """
        Args:
            wanted: a relative path.

        Returns:
            The name, and the name without suffix for files of another kind. Where ``a.jpg`` and
            ``a.png`` would both be ``a``, the later keeps its suffix in it.
        """
        path = PurePosixPath(wanted)
        name, number = wanted, 2
        while _key(name) in self._names:
            name = str(path.with_name(f"{path.stem}_{number}{path.suffix}"))
            number += 1
        self._names.add(_key(name))
        path = PurePosixPath(name)
        stem = str(path.with_suffix("")) if path.suffix else name
        for choice in (stem, name):
            if _key(choice) not in self._stems:
                break
        else:
            number = 2
            while _key(choice := f"{name}_{number}") in self._stems:
                number += 1
        self._stems.add(_key(choice))
        return name, choice


def _key(name: str) -> int:
    return hash(name.casefold())
