"""Read checkpoint files by their content, without running anything in them."""

import mmap
import os
import re
from dataclasses import dataclass, field
from typing import Any

from .errors import CheckpointError, UnsafeCheckpointError
from .numpy_files import holds_arrays, read_npz
from .pickle_limits import LimitError
from .safetensors_file import is_safetensors, read_safetensors
from .torch_files import is_legacy, is_torchscript, read_legacy, read_zip
from .unpickling import unpickler
from .zip_archive import ZipArchive

__all__ = ["RawCheckpoint", "read_file"]

# How pickles of protocols 0 and 1 begin: a dictionary, a list, a class, or PyTorch's number.
_OLD_PICKLE = re.compile(rb"\(d|\(l|\(i|\}q|\}\(|\]q|\]\(|c[a-z_.]+\n[A-Za-z_]+\n|L\d+L?\n")


@dataclass
class RawCheckpoint:
    """The content of a file before its names are interpreted.

    Attributes:
        content: the unpickled object, or a dictionary of tensors.
        text: the strings in the file (safetensors' metadata).
    """

    content: Any
    text: dict[str, str] = field(default_factory=dict)


def read_file(path: str) -> RawCheckpoint:
    """Read a checkpoint of any format onto the CPU.

    PyTorch's formats (zip and older), safetensors, pickles of NumPy arrays (Detectron2's ``.pkl``)
    and ``.npz`` are distinguished by their content. Tensors of zip archives are memory-mapped: they
    may be changed in place, which leaves the file unchanged.

    Args:
        path: a local file.

    Raises:
        UnsafeCheckpointError: if the file refers to code; the message has the name.
        CheckpointError: if it is empty, damaged, or of another format.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not a file")
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty")
    try:
        raw = _read(path, head)
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{path} is refused: it refers to {error}, which is no part of a checkpoint and could "
            "run code. None of it was run or loaded"
        ) from None
    except CheckpointError:
        raise
    except LimitError as error:
        raise CheckpointError(
            f"{path} is refused: {error}, which no program that saves weights writes"
        ) from error
    except MemoryError as error:
        raise CheckpointError(
            f"{path} ({size:,} bytes) needs more memory than is available"
        ) from error
    # Damaged files raise anything: end of file, bad opcodes, wrong types, impossible sizes.
    except Exception as error:
        text = str(error).splitlines()
        raise CheckpointError(
            f"{path} ({size:,} bytes) cannot be read: it is truncated or damaged "
            f"({type(error).__name__}: {text[0][:300] if text else '-'})"
        ) from error
    if raw is None:
        raise CheckpointError(f"{path} is not a checkpoint: {_describe(head)}")
    return raw


def _read(path: str, head: bytes) -> RawCheckpoint | None:
    if head.startswith(b"PK\x03\x04"):
        return RawCheckpoint(_read_archive(path))
    # After the length of its header. Not last, since a length may begin as a pickle does.
    if is_safetensors(head):
        return RawCheckpoint(*read_safetensors(path))
    if _is_tar(head):
        return None
    if head[:1] == b"\x80":
        return RawCheckpoint(_read_pickle(path))
    if _OLD_PICKLE.match(head):
        return RawCheckpoint(_read_pickle(path))
    return None


def _read_archive(path: str) -> Any:
    archive = ZipArchive(path)
    if is_torchscript(archive):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint: save the state_dict of the model "
            "it was made from"
        )
    if holds_arrays(archive):
        return read_npz(archive, path)
    return read_zip(archive, path)


def _read_pickle(path: str) -> Any:
    """PyTorch's format before 1.6, which begins with a number of its own, or a plain pickle."""
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    machine = unpickler(data)
    first = machine.load()
    if is_legacy(first):
        return read_legacy(data, path)
    if machine.position != len(data):
        raise CheckpointError(
            f"{path} is damaged: {len(data) - machine.position:,} bytes follow its pickle"
        )
    return first


def _is_tar(head: bytes) -> bool:
    """By the checksum of the first header, whatever the first member's name looks like."""
    if len(head) < 512:
        return False
    try:
        stated = int(head[148:156].strip(b" \0") or b"-", 8)
    except ValueError:
        return False
    return stated == sum(head[:148]) + 8 * ord(" ") + sum(head[156:])


def _describe(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, so the URL that it came from is wrong"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; download the file itself with `git lfs pull`"
    if _is_tar(head):
        return "it is a tar archive (PyTorch before 0.2, or a packed file: unpack it)"
    if head.startswith((b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"(\xb5/\xfd")):
        return "it is a compressed file: unpack it"
    if head.startswith(b"\x93NUMPY"):
        return "it is one NumPy array without a name; save a dictionary of arrays with numpy.savez"
    return f"it begins with {head[:16]!r}"
