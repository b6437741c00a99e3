"""The safetensors format, with a checksum in the files that this package writes."""

import zlib

import safetensors
import torch
from safetensors.torch import save_file

from .errors import CheckpointError

__all__ = ["is_safetensors", "read_safetensors", "write_safetensors"]

_MAX_HEADER = 32 * 2**20
_CHECKSUM = "crc32"


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (9 bytes or more) has a header of that format."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def read_safetensors(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file; offsets are checked by the library.

    Raises:
        CheckpointError: if the header is too large, or the checksum, if there is one, differs.
        Exception: of any kind, if the file is damaged.
    """
    with open(path, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"{path} is refused: its header has {length:,} bytes, and a checkpoint's has at most "
            f"{_MAX_HEADER:,}"
        )
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    wanted = metadata.pop(_CHECKSUM, None)
    if wanted is not None and wanted != (found := _checksum(tensors)):
        raise CheckpointError(
            f"{path} is damaged: its tensors have the CRC-32 {found}, and its header says "
            f"{wanted[:8]}. Copy or download the file again"
        )
    return tensors, metadata


def write_safetensors(
    tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str]
) -> None:
    """Write contiguous tensors, and metadata with a checksum of the tensors."""
    text = {"format": "pt", **metadata, _CHECKSUM: _checksum(tensors)}
    save_file(tensors, path, metadata=text)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        flat = tensors[name].contiguous().reshape(-1)
        if flat.numel():
            value = zlib.crc32(flat.view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
