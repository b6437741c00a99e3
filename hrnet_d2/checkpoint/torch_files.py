"""PyTorch's own formats: zip archives (since 1.6) and rows of pickles (before)."""

import mmap
import pickle
import sys
from typing import Any

import numpy as np
import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from .errors import CheckpointError, UnsafeCheckpointError
from .rebuilding import Storage, StorageType
from .unpickling import unpickler
from .zip_archive import ZipArchive

__all__ = ["is_legacy", "is_torchscript", "read_legacy", "read_zip"]

# PyTorch aligns tensors in its archives to this; vector instructions may rely on less.
_ALIGNMENT = 64


def is_torchscript(archive: ZipArchive) -> bool:
    """Whether an archive is a TorchScript program, which runs when it is loaded."""
    return any({"constants.pkl", "code"} & set(name.split("/")) for name in archive.names)


def read_zip(archive: ZipArchive, path: str) -> Any:
    """The object in a PyTorch archive. Its tensors are views of the file.

    Raises:
        CheckpointError: if it is not such an archive, or an entry is damaged.
        Exception: of any kind, if its pickle is damaged.
    """
    root = archive.names[0].partition("/")[0] if archive.names else ""
    if f"{root}/data.pkl" not in archive:
        raise CheckpointError(f"{path} is a zip archive that does not hold a PyTorch checkpoint")
    if not all(name.startswith(f"{root}/") for name in archive.names):
        raise CheckpointError(f"{path} is refused: it is a zip archive with several root folders")
    order = sys.byteorder
    if f"{root}/byteorder" in archive:
        order = archive.read(f"{root}/byteorder").decode("latin1").strip()  # type: ignore[assignment]
        if order not in ("little", "big"):
            raise CheckpointError(f"{path} is damaged: its byte order is neither little nor big")
    storages: dict[str, Storage] = {}

    def persistent_load(saved: Any) -> Storage:
        kind, key, count = _storage_id(saved, fields=5)
        if type(key) is not str:
            raise pickle.UnpicklingError("the key of a storage is not text")
        if key not in storages:
            name = f"{root}/data/{key}"
            if name not in archive:
                raise CheckpointError(
                    f"{path} is incomplete: it refers to the tensor data {name[:200]}, which are "
                    "missing"
                )
            content = _content(archive, name, swap=0 if order == sys.byteorder else _unit(kind))
            storages[key] = Storage(kind, content)
        storage = storages[key]
        if storage.content.nbytes() != count * kind.itemsize:
            raise pickle.UnpicklingError(
                f"the storage {key[:100]} should have {count:,} values and has "
                f"{storage.content.nbytes():,} bytes"
            )
        return storage if storage.kind == kind else Storage(kind, storage.content)

    return unpickler(archive.read(f"{root}/data.pkl"), persistent_load).load()


def _unit(kind: StorageType) -> int:
    """The size of a number in bytes; a complex value has two."""
    return kind.itemsize // (2 if kind.dtype is not None and kind.dtype.is_complex else 1)


def _content(archive: ZipArchive, name: str, swap: int) -> torch.UntypedStorage:
    """An entry's bytes: of the mapped file if they can be used as they are."""
    if archive.is_stored(name):
        start, size = archive.find(name)
        if not size:
            return torch.UntypedStorage(0)
        if swap <= 1 and start % _ALIGNMENT == 0:
            mapped = torch.frombuffer(archive.data, dtype=torch.uint8, count=size, offset=start)
            return mapped.untyped_storage()
        own = bytearray(memoryview(archive.data)[start : start + size])
    else:
        own = bytearray(archive.read(name))
        if not own:
            return torch.UntypedStorage(0)
    if swap > 1:
        np.frombuffer(own, f"u{swap}").byteswap(inplace=True)
    return torch.frombuffer(own, dtype=torch.uint8).untyped_storage()


def _storage_id(saved: Any, fields: int) -> tuple[StorageType, Any, int]:
    """Type, key and number of values in a persistent id."""
    if not isinstance(saved, tuple) or len(saved) < fields:
        raise pickle.UnpicklingError("a reference to something other than a storage")
    tag, kind, key, _, count = saved[:5]
    if tag not in ("storage", b"storage"):
        raise UnsafeCheckpointError("a pickled module instead of its weights")
    if not isinstance(kind, StorageType) or type(count) is not int or not 0 <= count < 2**62:
        raise pickle.UnpicklingError("the type or size of a storage")
    return kind, key, count


def is_legacy(first: Any) -> bool:
    """Whether a file's first pickle is that of PyTorch before 1.6."""
    return type(first) is int and first == MAGIC_NUMBER


def read_legacy(data: mmap.mmap, path: str) -> Any:
    """The object in a file of PyTorch before 1.6: five pickles, and the storages.

    Raises:
        CheckpointError: if bytes are missing or left over.
        Exception: of any kind, if a pickle is damaged.
    """
    storages: dict[Any, Storage] = {}
    views: dict[Any, Storage] = {}
    claimed = 0

    def persistent_load(saved: Any) -> Storage:
        nonlocal claimed
        kind, key, count = _storage_id(saved, fields=6)
        if type(key) not in (str, int):
            raise pickle.UnpicklingError("the key of a storage is not text")
        if key not in storages:
            size = count * kind.itemsize
            claimed += size
            if claimed > len(data):
                raise EOFError("its tensors are larger than the file")
            storages[key] = Storage(kind, torch.UntypedStorage(size))
        storage = storages[key]
        if storage.kind != kind or storage.content.nbytes() != count * kind.itemsize:
            raise pickle.UnpicklingError("a storage has two types or sizes")
        view = saved[5]
        if view is None:
            return storage
        return _view(storage, view, views)

    machine = unpickler(data, persistent_load)
    magic, protocol, _ = machine.load(), machine.load(), machine.load()
    if not is_legacy(magic) or protocol != PROTOCOL_VERSION:
        raise pickle.UnpicklingError("an unknown version of PyTorch's old format")
    result = machine.load()
    keys = machine.load()
    if not isinstance(keys, list) or len(keys) != len(storages):
        raise pickle.UnpicklingError("the list of storages does not match the tensors")
    waiting = dict(storages)
    for key in keys:
        if type(key) not in (str, int) or key not in waiting:
            raise pickle.UnpicklingError("a storage is listed twice or belongs to no tensor")
        storage = waiting.pop(key)
        size = storage.content.nbytes()
        if machine.number(8) * storage.kind.itemsize != size:
            raise pickle.UnpicklingError("a storage has two sizes")
        if size:
            _fill(storage.content, machine, size)
    if machine.position != len(data):
        raise CheckpointError(
            f"{path} is damaged: {len(data) - machine.position:,} bytes follow its last tensor"
        )
    return result


def _view(storage: Storage, view: Any, views: dict[Any, Storage]) -> Storage:
    """A part of a storage, as PyTorch before 0.4 shared them."""
    if not isinstance(view, tuple) or len(view) != 3:
        raise pickle.UnpicklingError("a part of a storage")
    key, offset, count = view
    if type(key) not in (str, int) or type(offset) is not int or type(count) is not int:
        raise pickle.UnpicklingError("a part of a storage")
    start, end = offset * storage.kind.itemsize, (offset + count) * storage.kind.itemsize
    if not 0 <= start <= end <= storage.content.nbytes():
        raise pickle.UnpicklingError("a part of a storage lies outside it")
    if key not in views:
        views[key] = Storage(storage.kind, storage.content[start:end])
    return views[key]


def _fill(content: torch.UntypedStorage, machine: Any, size: int) -> None:
    start = machine.position
    if start + size > len(machine.data):
        raise EOFError(f"{size:,} bytes of a tensor are announced and missing")
    target = torch.empty(0, dtype=torch.uint8).set_(content, 0, (size,), (1,))
    target.numpy()[:] = np.frombuffer(machine.data, np.uint8, size, start)
    machine.position = start + size
