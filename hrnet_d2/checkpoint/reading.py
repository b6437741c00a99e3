"""Read checkpoint files by their content, without running anything in them."""

import hashlib
import os
import re
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import safetensors
import torch
from torch.serialization import MAGIC_NUMBER

from . import unpickling
from .errors import CheckpointError, UnsafeCheckpointError

__all__ = ["RawCheckpoint", "check_digest", "read_file"]

# "-56651a6d.pth": the start of the content's SHA-256, a convention of publishers of weights.
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pth\.tar|pt|pkl|bin|safetensors)")
_DATE = re.compile(r"(?:19|20)\d{6}")


@dataclass
class RawCheckpoint:
    """The content of a file before its names are interpreted.

    Attributes:
        content: the unpickled object, or a dictionary of tensors.
        text: the strings in the file (safetensors' metadata).
    """

    content: Any
    text: dict[str, str] = field(default_factory=dict)


def check_digest(path: str, name: str | None = None) -> None:
    """Check a file against the SHA-256 prefix in its name, if there is one.

    Args:
        path: path of the file.
        name: the name or URL that it was published under; default: its own.

    Raises:
        CheckpointError: if they differ.
    """
    found = _DIGEST.search(PurePosixPath(name or path).name)
    if found is None or _DATE.fullmatch(found[1]):
        return
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**22):
            sha.update(block)
    digest = sha.hexdigest()
    if not digest.startswith(found[1]):
        raise CheckpointError(
            f"{path} is not the file that its name says: its SHA-256 begins with "
            f"{digest[: len(found[1])]}, not with {found[1]}. The download is damaged or the file "
            "was changed: delete it and fetch it again, or rename it if you changed it yourself"
        )


def read_file(path: str) -> RawCheckpoint:
    """Read a checkpoint of any format onto the CPU.

    PyTorch's formats (zip and older), safetensors, and pickles of NumPy arrays (Detectron2's
    ``.pkl``) are distinguished by their first bytes.

    Args:
        path: a local file.

    Raises:
        UnsafeCheckpointError: if the file refers to code; the message has the name.
        CheckpointError: if it is empty, damaged, or of another format.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not a file")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(512)
    if size == 0:
        raise CheckpointError(f"{path} is empty")
    try:
        if head.startswith(b"PK\x03\x04"):
            return RawCheckpoint(_read_zip(path))
        # After the length of its header. Not last, since a length may begin as a pickle does.
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 * 2**20:
            return _read_safetensors(path)
        if head[:1] == b"\x80":
            return RawCheckpoint(_read_pickle(path))
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{path} is refused: it names {error}, which is no part of a checkpoint and could run "
            "code. Nothing of it was run or loaded"
        ) from None
    except CheckpointError:
        raise
    # Damaged files raise anything: end of file, bad opcodes, wrong types, impossible sizes.
    except Exception as error:
        raise CheckpointError(
            f"{path} ({size:,} bytes) cannot be read: it is truncated or damaged "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else '-'})"
        ) from error
    raise CheckpointError(f"{path} is no checkpoint: {_describe(path, head)}")


def _describe(path: str, head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, so the address that it came from is wrong"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if tarfile.is_tarfile(path):
        return "it is a tar archive (PyTorch before 0.2, or a packed file: unpack it)"
    return f"it begins with {head[:16]!r}"


def _read_zip(path: str) -> Any:
    """PyTorch's format since 1.6."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} ({os.path.getsize(path):,} bytes) is truncated: it begins as a PyTorch "
            "checkpoint and its end is missing"
        )
    with zipfile.ZipFile(path) as archive:
        members = {PurePosixPath(name).name for name in archive.namelist()}
    if "constants.pkl" in members:
        raise CheckpointError(f"{path} is a TorchScript program; a checkpoint of it is needed")
    if "data.pkl" not in members:
        raise CheckpointError(f"{path} is a zip archive that holds no PyTorch checkpoint")
    return _torch_load(path)


def _read_pickle(path: str) -> Any:
    """PyTorch's format before 1.6, which begins with a number of its own, or a plain pickle."""
    if tarfile.is_tarfile(path):  # which torch.load would unpack
        raise CheckpointError(f"{path} is a tar archive, not a checkpoint")
    with open(path, "rb") as file:
        first = unpickling.load(file, encoding="latin1")
    return _torch_load(path) if first == MAGIC_NUMBER else first


def _torch_load(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # More than weights: logs, configs, numpy numbers.  Read once more by a pickle reader that
        # puts stand-ins in their place, or says what it refuses.  `weights_only` has to be off for
        # torch.load to take it; it resolves fewer names than PyTorch's own.
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=unpickling)


def _read_safetensors(path: str) -> RawCheckpoint:
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return RawCheckpoint(tensors, dict(file.metadata() or {}))
