"""From what a user names as input to files, archives, videos and cameras."""

import glob
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hrnet_d2.config_file import ConfigError
from hrnet_d2.data.image_io import MAX_PIXELS

from .archives import Archive
from .files import File
from .item import ARCHIVES, IMAGES, VIDEOS, Unit, kind_of
from .names import apart, safe_name
from .remote import expand_url, is_url, open_seekable
from .video import STREAMS, Video, camera_index

__all__ = ["expand"]

Found = tuple[str, str]  # path or URL, and the folder that its name is relative to


def expand(
    inputs: Sequence[str],
    *,
    leave_out: str | os.PathLike[str] | None = None,
    max_frames: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> list[Unit]:
    """The units that inputs stand for, each once, in their order.

    Args:
        inputs: images, folders (all images in them and below), patterns (``*``, ``**``, ``?``,
            ``[]``, ``{000..009}``), text files of paths or URLs (``-`` is standard input), videos,
            ``camera:0``, tar archives, and URLs of these.
        leave_out: a folder whose images are not looked for, such as the output's.
        max_frames: of each video and camera; 0 is all.
        max_pixels: videos with larger frames are refused.

    Raises:
        FileNotFoundError: if an input does not exist, or stands for nothing.
        ConfigError: if an input cannot be used.
    """
    left_out = os.path.realpath(leave_out) if leave_out is not None else None
    found: dict[str, Found] = {}
    folders = _Folders()
    for text in itertools.chain.from_iterable(map(_braces, inputs)):
        for path, root in _expand_one(text, left_out):
            found.setdefault(folders.key(path), (path, root))
    return _units(list(found.values()), max_frames, max_pixels)


def _expand_one(text: str, left_out: str | None) -> Iterable[Found]:
    if camera_index(text) is not None:
        return [(text, "")]
    if text.startswith("camera:"):
        raise ConfigError(f"{text} is no camera: give its number, such as camera:0")
    if text.lower().startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if is_url(text):
        if text.partition("://")[0].lower() in STREAMS:
            return [(text, "")]
        if kind_of(text) == "list":
            return _listed(text, open_seekable(text).read(), left_out)
        return expand_url(text)
    if text == "-":
        return _listed("standard input", sys.stdin.buffer.read(), left_out)
    if os.path.isdir(text):
        return _in_folder(text, left_out)
    if os.path.exists(text):
        if kind_of(text) == "list":
            return _listed(text, Path(text).read_bytes(), left_out)
        return [(text, os.path.dirname(text))]
    if glob.has_magic(text):
        return _matching(text, left_out)
    raise FileNotFoundError(f"There is no image or folder {text}")


def _in_folder(folder: str, left_out: str | None) -> list[Found]:
    found = [(path, folder) for path in _walk(folder, left_out)]
    if not found:
        raise FileNotFoundError(
            f"There is no image in the folder {folder} (videos and archives are named one by one, "
            "or by a pattern)"
        )
    return found


def _walk(folder: str, left_out: str | None) -> Iterator[str]:
    """Images in a folder and below, sorted; links are followed, each folder is entered once."""
    entered = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in entered or (real == left_out and path != folder):
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGES) and not name.startswith("."):
                yield os.path.join(path, name)


def _matching(pattern: str, left_out: str | None) -> list[Found]:
    start = re.split(r"[*?\[]", pattern)[0]
    root = os.path.dirname(start)
    if left_out is not None and _inside(os.path.realpath(root or "."), left_out):
        left_out = None  # what is asked for lies there
    found: list[Found] = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(path):
            if "**" not in pattern:
                found += [(p, root) for p in _walk(path, left_out)]
        elif path.lower().endswith((*IMAGES, *VIDEOS, *ARCHIVES)) and not (
            left_out is not None and _inside(os.path.realpath(path), left_out)
        ):
            found.append((path, root))
    if not found:
        raise FileNotFoundError(f"No image, video or archive matches {pattern}")
    return found


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _listed(file: str, data: bytes, left_out: str | None) -> Iterator[Found]:
    """The lines of a text file: images, videos, archives, folders and URLs.

    Lines are separated by newlines, or by zero bytes as ``find -print0`` writes them. Relative
    paths are relative to the current folder if the first of them is there, or else to the file's.
    """
    separator = b"\0" if b"\0" in data else b"\n"
    lines = data.removeprefix(b"\xef\xbb\xbf").split(separator)
    entries = [os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip()]
    if not entries:
        raise FileNotFoundError(f"There is no path in {file}")
    base = ""
    relative = next((e for e in entries if not is_url(e) and not os.path.isabs(e)), None)
    if relative is not None and not os.path.exists(relative) and not is_url(file):
        beside = os.path.dirname(file)
        base = beside if os.path.exists(os.path.join(beside, relative)) else ""
    for entry in entries:
        if is_url(entry):
            scheme, parent = entry.partition("://")[0].lower(), entry.rpartition("/")[0]
            if scheme == "file":
                path = url2pathname(urlsplit(entry).path)
                yield path, os.path.dirname(path)
            else:
                yield entry, parent
            continue
        path = os.path.normpath(os.path.join(base, entry))
        if kind_of(path) == "" and os.path.isdir(path):
            yield from _in_folder(path, left_out)
            continue
        outside = os.path.isabs(entry) or path.startswith(os.pardir) or (base and ".." in entry)
        # What is there is not asked of each line: a missing file is an error of its own.
        yield path, os.path.dirname(path) if outside else base


class _Folders:
    """Tells files that are the same, through links to folders too."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def key(self, path: str) -> str:
        """Equal for the same file."""
        if is_url(path) or camera_index(path) is not None:
            return path
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], name)


def _units(found: list[Found], max_frames: int, max_pixels: int) -> list[Unit]:
    units: list[Unit] = []
    for path, root in found:
        kind = kind_of(path)
        if camera_index(path) is not None or path.partition("://")[0].lower() in STREAMS:
            units.append(Video(path, safe_name(path.replace(":", "_")), max_frames, max_pixels))
        elif kind == "video":
            units.append(Video(path, _folder_name(path, root), max_frames, max_pixels))
        elif kind == "archive":
            units.append(Archive(path, _folder_name(path, root)))
        else:
            units.append(File(path, root))
    roots = {root for _, root in found}
    if len(roots) > 1:
        real = {r: r if is_url(r) else os.path.realpath(r or ".") for r in roots}
        names = [unit.name for unit in units]
        told_apart = apart(names, [real[root] for _, root in found])
        for unit, old, new in zip(units, names, told_apart, strict=True):
            if new != old:
                setattr(unit, "given" if isinstance(unit, File) else "name", new)
    return units


def _folder_name(path: str, root: str) -> str:
    """The name of a file that has a folder of outputs."""
    return File(path, root).name.removesuffix(".png")


_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_IN_BRACES = 1_000_000


def _braces(text: str) -> Iterator[str]:
    """Of ``part-{08..10}.tar`` the three names, as shells and WebDataset write them."""
    match = _RANGE.search(text)
    if match is None or (not is_url(text) and os.path.exists(text)):
        yield text
        return
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST_IN_BRACES:
        raise ConfigError(f"{text}: {match[0]} counts no files: write {{000..009}}")
    width = len(match[1]) if match[1].startswith("0") else 0
    for number in range(first, last + 1):
        yield from _braces(f"{text[: match.start()]}{number:0{width}d}{text[match.end() :]}")
