"""Limits on what a pickle may build, so that code that reads it cannot overflow or hang."""

import pickle
from typing import Any

__all__ = ["LimitError", "check_key", "check_nesting"]

MAX_DEPTH = 100
MAX_ITEMS = 10_000_000
_MAX_KEY_ITEMS = 200
_PLAIN = (str, bytes, float, bool, frozenset, type(None))
_CONTAINERS = (dict, list, tuple, set, frozenset)


class LimitError(pickle.UnpicklingError):
    """A pickle that no program for saving weights writes: too deep, too large, or cyclic."""


def check_key(key: Any) -> None:
    """Refuse what is slow or dangerous to hash.

    Raises:
        LimitError: if the key is neither a plain value nor a small tuple of plain values.
    """
    pending = [key]
    for _ in range(_MAX_KEY_ITEMS):
        if not pending:
            return
        item = pending.pop()
        kind = type(item)
        if kind is tuple:
            pending.extend(item[:_MAX_KEY_ITEMS])
        elif kind is int:
            if not -(2**61) < item < 2**61 - 1:  # larger ones can be made to share a hash
                raise LimitError("a key of a dictionary is an integer of 62 bits or more")
        elif kind not in _PLAIN and getattr(kind, "__hash__", None) is not object.__hash__:
            raise LimitError(f"a key of a dictionary is a {kind.__name__}")
    if pending:
        raise LimitError("a key of a dictionary is a large tuple")


def check_nesting(root: Any) -> None:
    """Bound how deep an object nests and how large it is if what it shares is counted each time.

    Code that walks through the object can then recurse and need not look for cycles.
    """
    measured: dict[int, tuple[int, int]] = {}  # depth and size
    open_: set[int] = set()
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        item, children_done = pending.pop()
        values = item.values() if isinstance(item, dict) else item
        if not isinstance(item, _CONTAINERS):
            continue
        if children_done:
            depth, size = 0, len(item)
            for value in values:
                if isinstance(value, _CONTAINERS):
                    below = measured[id(value)]
                    depth, size = max(depth, below[0]), size + below[1]
            if depth >= MAX_DEPTH or size > MAX_ITEMS:
                raise LimitError(
                    f"its pickle nests more than {MAX_DEPTH} levels deep or holds more than "
                    f"{MAX_ITEMS:,} objects"
                )
            measured[id(item)] = depth + 1, size
            open_.discard(id(item))
        elif id(item) in open_:
            raise LimitError("its pickle contains itself")
        elif id(item) not in measured:
            open_.add(id(item))
            pending.append((item, True))
            inner = [value for value in values if isinstance(value, _CONTAINERS)]
            for value in inner:
                if id(value) in open_:
                    raise LimitError("its pickle contains itself")
                pending.append((value, False))
