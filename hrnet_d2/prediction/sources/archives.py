"""Images in tar archives, as WebDataset has them; nothing is unpacked to disk."""

import contextlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from lzma import LZMAError
from typing import Any, BinaryIO

from hrnet_d2.data import ImageReadError

from .files import drawn_name
from .item import IMAGES, Item
from .names import safe_name
from .remote import MAX_BYTES, is_url, open_url

__all__ = ["Archive"]

# What reading a damaged archive raises.
ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, LZMAError)


@dataclass(slots=True)
class Archive:
    """A tar archive, compressed or not, by path or URL; read once, from its start to its end.

    Of its members those with an image's suffix are read. What their names say leads nowhere: links
    are left out, and outputs are named by parts of the names that are safe.
    """

    source: str
    name: str
    whole = False
    single = False

    def count(self) -> None:
        """Not known without reading the archive."""
        return None

    def items(self, wanted: Callable[[str], bool]) -> Iterator[Item]:
        """See :class:`item.Unit`. A damaged archive ends with an item that has the error."""
        images = 0
        try:
            with (
                contextlib.closing(_open(self.source)) as file,
                tarfile.open(fileobj=file, mode="r|*") as archive,
            ):
                for member in archive:
                    vars(archive)["members"] = []  # it would grow with the archive
                    if _is_image(member):
                        images += 1
                        yield self._item(archive, member, wanted)
            error = "" if images else f"There is no image in the archive {self.source}"
        except FileNotFoundError:
            error = f"There is no archive {self.source}"
        except ERRORS as problem:
            error = f"The archive {self.source} is damaged after {images} images: {problem}"
        if error:
            yield Item(self.source, self.source, wanted=drawn_name(self.name), error=error)

    def _item(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, wanted: Callable[[str], bool]
    ) -> Item:
        source = f"{self.source}/{member.name}"
        name = f"{self.name}/{safe_name(member.name)}"
        item = Item(source, self.source, wanted=drawn_name(name), serial=True)
        if member.size > MAX_BYTES:
            item.error = f"{source} has {member.size // 2**20} MiB: this is no image"
        elif wanted(source):

            def read() -> bytes:
                try:
                    file: Any = archive.extractfile(member)
                    data: bytes = file.read()
                except ERRORS as error:
                    raise ImageReadError(f"{source} cannot be read: {error}") from error
                return data

            item.read = read
        return item


def _open(source: str) -> BinaryIO:
    return open_url(source) if is_url(source) else open(source, "rb")


def _is_image(member: tarfile.TarInfo) -> bool:
    base = os.path.basename(member.name)
    # macOS adds a file "._NAME" for the attributes of each.
    return member.isreg() and base.lower().endswith(IMAGES) and not base.startswith(".")
