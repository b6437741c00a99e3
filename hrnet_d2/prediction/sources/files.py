"""Single images: local files and URLs."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hrnet_d2.data import ImageReadError

from .item import IMAGES, Item
from .names import safe_name
from .remote import MAX_BYTES, base_name, is_url, read_url

__all__ = ["File", "drawn_name", "read_file"]


def read_file(path: str) -> bytes:
    """The bytes of an image file, by path or URL.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageReadError: if it cannot be read, or is too large to be an image.
    """
    if is_url(path):
        return read_url(path)
    try:
        if os.path.isdir(path):
            raise ImageReadError(f"{path} is a folder, not an image")
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageReadError(f"{path} is no file but a device or a pipe")
        size = status.st_size
        if size > MAX_BYTES:
            raise ImageReadError(f"{path} has {size // 2**20} MiB: this is no image")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image {path}") from error
    except OSError as error:
        if isinstance(error, ImageReadError):
            raise
        raise ImageReadError(f"Image {path} cannot be read: {error.strerror or error}") from error


def drawn_name(name: str) -> str:
    """The image's own name; a suffix that OpenCV may not write gets .png on top."""
    return name if name.lower().endswith(IMAGES) else f"{name}.png"


@dataclass(slots=True)
class File:
    """A file that is an image."""

    source: str
    root: str
    """The folder, or the URL of one, that the name is relative to."""
    given: str = ""
    """The name, if it is not the path relative to ``root``."""
    whole = False
    single = True

    @property
    def name(self) -> str:
        """Relative path that the output is named by."""
        if self.given:
            return drawn_name(self.given)
        if is_url(self.source):
            start = self.root.rstrip("/") + "/"
            inside = self.source.split("?")[0].removeprefix(start)
            return drawn_name(safe_name(inside if "://" not in inside else base_name(self.source)))
        root = os.path.join(self.root, "") if self.root else ""
        if self.source.startswith(root):
            inside = self.source[len(root) :]
        else:
            inside = os.path.relpath(self.source, self.root)
        return drawn_name(inside.replace(os.sep, "/"))

    def count(self) -> int:
        """One."""
        return 1

    def items(self, wanted: Callable[[str], bool]) -> Iterator[Item]:
        """See :class:`item.Unit`."""
        item = Item(self.source, self.source, wanted=self.name)
        if wanted(self.source):
            item.read = lambda: read_file(self.source)
            item.path = None if is_url(self.source) else self.source
        yield item
