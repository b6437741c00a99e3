"""What the inputs consist of: units, such as a file, and the images in them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["ARCHIVES", "IMAGES", "LISTS", "VIDEOS", "Item", "Unit", "kind_of"]

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LISTS = (".txt", ".lst")


def kind_of(path: str) -> str:
    """Of a file by its suffix: "image", "video", "archive", "list", or "" if it is unknown."""
    lower = path.split("?")[0].lower() if "://" in path else path.lower()
    kinds = {"image": IMAGES, "video": VIDEOS, "archive": ARCHIVES, "list": LISTS}
    return next((kind for kind, suffixes in kinds.items() if lower.endswith(suffixes)), "")


@dataclass(slots=True)
class Item:
    """An image to predict on, or an error in its place; see ``Prediction`` for the names."""

    source: str
    unit: str
    """The file that it is of: what ``--resume`` and ``--shard`` count."""
    wanted: str = ""
    """A relative path to name its output by."""
    name: str = ""
    stem: str = ""
    number: int = 0
    frame: int | None = None
    read: Callable[[], bytes] | None = None
    """Gives the encoded image. Must be called before the next item is asked for if ``serial``."""
    serial: bool = False
    image: np.ndarray | None = None
    """(H, W, 3) uint8 BGR, if it is decoded already."""
    error: str = ""
    path: str | None = None
    """Of the local file that is the image, if it is one."""
    live: bool = False
    """From a camera: it is not worth waiting for the next."""
    last: bool = True
    """Whether a video ends with it; False as long as nobody knows."""
    fps: float = 0.0
    """Frames of its video in a second."""


class Unit(Protocol):
    """A file, an archive, a video or a camera."""

    @property
    def source(self) -> str:
        """Path or URL, as the user would call it."""

    @property
    def name(self) -> str:
        """Relative path that its output is named by, or the folder of its output."""

    @property
    def whole(self) -> bool:
        """Whether it is predicted on as a whole or not at all, as a video is."""

    @property
    def single(self) -> bool:
        """Whether it is a single image."""

    def count(self) -> int | None:
        """The number of its images, as far as it is known without reading it."""

    def items(self, wanted: Callable[[str], bool]) -> Iterator[Item]:
        """Its images, in order.

        Args:
            wanted: whether an image, by its source, is to be read; the others are given without
                ``read``.
        """


def as_dict(item: Item) -> dict[str, Any]:
    """The fields that a prediction takes over."""
    names = ("source", "name", "stem", "number", "frame", "path", "error")
    return {name: getattr(item, name) for name in names}
