"""A weight in the layout of the kernel that uses it."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

__all__ = ["PackedWeight", "version_of"]

Packed = TypeVar("Packed")


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor's memory was written; 0 for one of inference mode, which has no count."""
    return 0 if tensor.is_inference() else tensor._version


class PackedWeight(Generic[Packed]):
    """Laid out once, and again when the weight has changed or another layout is asked for.

    Copies and pickles are empty: oneDNN's tensors can be neither copied nor saved.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, Packed] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedWeight, ()

    def clear(self) -> None:
        """Forget the layout."""
        self._kept = None

    def get(self, weight: torch.Tensor, how: Any, pack: Callable[[], Packed]) -> Packed:
        """What ``pack`` gives, or what it gave before for this weight and this way of packing.

        Args:
            weight: that ``pack`` lays out.
            how: names the layout.
            pack: called if the weight has changed since, or was laid out in another way.
        """
        source = (weight.data_ptr(), version_of(weight), how)
        kept = self._kept
        if kept is None or kept[0] != source:
            kept = self._kept = (source, pack())
        return kept[1]
