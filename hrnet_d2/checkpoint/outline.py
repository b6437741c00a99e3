"""A checkpoint without its tensors' values: names, shapes and everything else.

Reads only the pickle of a ``.pth`` or the header of a ``.safetensors`` file, so that a file's
settings are known in milliseconds and before its tensors are loaded once.
"""

import functools
import pickle
import zipfile
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import safetensors
import torch
from torch.serialization import MAGIC_NUMBER

from . import unpickling
from .errors import CheckpointError
from .formats import unwrap
from .loading import Checkpoint, account
from .reading import RawCheckpoint
from .unpickling import _Function

__all__ = ["load_outline"]

_META = torch.device("meta")
_REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2")


def load_outline(path: str) -> Checkpoint | None:
    """As ``load_file``, with tensors on PyTorch's "meta" device, which have no values.

    Args:
        path: path of a local file.

    Returns:
        None if the file is of a format that has no outline (pickles of NumPy arrays).

    Raises:
        UnsafeCheckpointError: if the file refers to code.
        CheckpointError: if it cannot be read or holds no tensors.
    """
    try:
        raw = _read(path)
    except (CheckpointError, OSError):
        raise
    # Damaged files raise anything: end of file, bad opcodes, wrong types, impossible sizes.
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: it is truncated or damaged ({type(error).__name__}: {error})"
        ) from error
    return None if raw is None else account(unwrap(raw, path), path, warn=False)


def _read(path: str) -> RawCheckpoint | None:
    with open(path, "rb") as file:
        head = file.read(16)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            return RawCheckpoint(_read_zip(file, path))
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if head[:1] == b"\x80" and _Unpickler(file, encoding="latin1").load() == MAGIC_NUMBER:
            for _ in range(2):  # the version of the protocol, and the machine's byte order
                _Unpickler(file, encoding="latin1").load()
            return RawCheckpoint(_Unpickler(file, encoding="latin1").load())
    return None


def _read_zip(file: BinaryIO, path: str) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [n for n in archive.namelist() if PurePosixPath(n).name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is a zip archive without a PyTorch checkpoint")
        with archive.open(pickles[0]) as data:
            return _Unpickler(data, encoding="utf-8").load()


def _read_safetensors(path: str) -> RawCheckpoint:
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        tensors = {name: _shaped(tuple(shape)) for name, shape in shapes.items()}
        return RawCheckpoint(tensors, dict(file.metadata() or {}))


class _Storage:
    """In the place of a tensor's storage: nothing."""

    __slots__ = ()

    def __call__(self, *_: Any) -> "_Storage":
        return self

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle sets the state of a storage")


_STORAGE = _Storage()


def _tensor(storage: Any, offset: int, size: Any, *_: Any) -> torch.Tensor:
    if storage is not _STORAGE:
        raise pickle.UnpicklingError("a tensor's storage is not a storage")
    return _shaped(tuple(size))


@functools.lru_cache(maxsize=4096)
def _shaped(size: tuple[int, ...]) -> torch.Tensor:
    """A tensor of this size without values; optimizers repeat the sizes of the weights."""
    return torch.empty(size, device=_META)


class _Unpickler(unpickling.Unpickler):
    """The restricted unpickler, for which storages have no content."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in _REBUILDERS:
            return _Function(_tensor)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _STORAGE
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return _STORAGE
