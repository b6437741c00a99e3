"""The levels of a backbone, as a dictionary that explains a level which is not among them.

Detectron2's heads look their ``IN_FEATURES`` up in ``backbone.output_shape()`` when they are built.
"""

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec

__all__ = ["Levels"]


class Levels(dict[str, ShapeSpec]):
    """What ``output_shape`` returns: name to shape, finest level first.

    Attributes:
        remedy: what to set to get other levels.
        readers: config keys of the heads, mapped to the levels that they read, if known.
    """

    def __init__(
        self,
        shapes: Mapping[str, ShapeSpec],
        remedy: str,
        readers: Mapping[str, Sequence[str]] | None = None,
    ):
        super().__init__(shapes)
        self.remedy = remedy
        self.readers = dict(readers or {})

    def __missing__(self, name: str) -> ShapeSpec:
        """
        Raises:
            KeyError: always, with the levels that are needed, those that exist, and what to do.
        """
        readers = [
            f"{key} names {', '.join(levels)}"
            for key, levels in self.readers.items()
            if name in levels
        ]
        needed = " and ".join(readers) or f"a head reads {name!r}"
        raise KeyError(f"{needed}, but the backbone makes {', '.join(self)}. {self.remedy}")
