"""What every output format has in common."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hrnet_d2.data.categories import category_id
from hrnet_d2.prediction.result import Prediction

__all__ = ["Context", "FileWriter", "Writer", "plain_text"]

logger = logging.getLogger(__name__)


def plain_text(text: str) -> str:
    """Text that every encoding of Unicode can write.

    File names that are no Unicode have lone surrogates in Python, which become ``\\udcff``.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass
class Context:
    """What writers know about a run."""

    output: Path
    suffix: str = ""
    """Of the names of tables, for a shard: "-1-of-4"."""
    class_names: Sequence[str] = ()
    category_ids: Sequence[int] = ()
    """Of the classes in COCO files, by the number of the class; empty: the number + 1."""
    masks: bool = False
    tracks: bool = False
    image_ids: Callable[[Prediction], int] = field(default=lambda p: p.number + 1)
    """Of the images in COCO files."""

    def name(self, cls: int) -> str:
        """Of a class."""
        return self.class_names[cls] if cls < len(self.class_names) else str(cls)

    def category(self, cls: int) -> int:
        """The id of a class in COCO files."""
        return category_id(cls, self.category_ids)


class Writer(ABC):
    """Writes predictions, in order, as they are made."""

    uses_image = False
    """Whether :meth:`add` needs the pixels."""
    parallel = False
    """Whether :meth:`add` may run in several threads, in any order."""

    def __init__(self, context: Context):
        """
        Args:
            context: of the run.
        """
        self.context = context

    @abstractmethod
    def add(self, prediction: Prediction, image: np.ndarray | None) -> None:
        """Write an image's detections, or its error.

        Args:
            prediction: the detections.
            image: (H, W, 3) uint8 BGR, if ``uses_image`` and there is no error.
        """

    def start(self, sizes: Mapping[str, int] | None) -> None:
        """Begin.

        Args:
            sizes: what :meth:`flush` gave when the run that goes on was recorded last; None begins
                anew, in place of what is there.
        """
        return None

    def flush(self) -> dict[str, int]:
        """Put everything on the disk; returns the size of each table, by its name."""
        return {}

    def finish(self) -> None:
        """End, also if the run was interrupted: the files are complete."""
        return None

    def tables(self) -> list[Path]:
        """Files and folders that hold the detections of many images."""
        return []

    def target(self, name: str, stem: str) -> Path | None:
        """The file for an image, if each has one."""
        return None


class FileWriter(Writer):
    """A file for each image."""

    parallel = True

    def add(self, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`Writer`; an image with an error gets no file."""
        if prediction.error:
            return
        target = self.target(prediction.name, prediction.stem)
        assert target is not None
        target.parent.mkdir(parents=True, exist_ok=True)
        self.write(target, prediction, image)

    @abstractmethod
    def write(self, target: Path, prediction: Prediction, image: np.ndarray | None) -> None:
        """Write the file, whole or not at all."""
