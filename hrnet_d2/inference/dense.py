"""The dense part of a detector: the backbone, and the head that reads its maps at every location.

Something faster than eager PyTorch computes both at once where they are asked for one after the
other: what the head will be asked for is stored until then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["Store", "StoredHead", "find_dense_head", "nested", "structure_of", "tensors_of"]


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    """The tensors in tensors, lists, tuples and dicts of such, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for part in parts for tensor in tensors_of(part)]


def structure_of(outputs: Any) -> Any:
    """What :func:`nested` needs to arrange tensors as ``outputs`` are."""
    if isinstance(outputs, torch.Tensor):
        return None
    if isinstance(outputs, dict):
        return list(outputs), [structure_of(part) for part in outputs.values()]
    return type(outputs), [structure_of(part) for part in outputs]


def nested(structure: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The next tensors in the arrangement of :func:`structure_of`."""
    if structure is None:
        return next(tensors)
    kind, parts = structure
    made = [nested(part, tensors) for part in parts]
    if isinstance(kind, list):
        return dict(zip(kind, made, strict=True))
    return kind(*made) if hasattr(kind, "_fields") else kind(made)  # named tuples


def find_dense_head(model: nn.Module) -> tuple[nn.Module | None, str, list[str]]:
    """The module that holds the dense head, its attribute, and the maps that the head reads."""
    proposals: Any = getattr(model, "proposal_generator", None)
    if isinstance(getattr(proposals, "rpn_head", None), nn.Module):
        return proposals, "rpn_head", list(proposals.in_features)
    dense: Any = model
    if isinstance(getattr(model, "head", None), nn.Module) and hasattr(model, "head_in_features"):
        return model, "head", list(dense.head_in_features)
    return None, "", []


class Store:
    """What was computed for the head, until the head of the same thread asks for it."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> Store:
        return memo.setdefault(id(self), Store())

    def keep(self, maps: Sequence[torch.Tensor], outputs: Any) -> None:
        """Keep what was computed from ``maps``."""
        self._local.kept = (list(maps), outputs)

    def take(self, maps: Sequence[torch.Tensor]) -> Any:
        """What was computed from these very tensors, or None."""
        kept = self._local.__dict__.pop("kept", None)
        if kept is None or len(kept[0]) != len(maps):
            return None
        if any(a is not b for a, b in zip(kept[0], maps, strict=True)):
            return None
        return kept[1]


class StoredHead(nn.Module):
    """A dense head whose outputs may have been computed already."""

    def __init__(self, inner: nn.Module, store: Store):
        super().__init__()
        self.inner = inner
        self.store = store

    def forward(self, features: Sequence[torch.Tensor]) -> Any:
        kept = self.store.take(features)
        return self.inner(features) if kept is None else kept
