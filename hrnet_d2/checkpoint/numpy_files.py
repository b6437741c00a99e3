"""NumPy's archives of named arrays (``.npz``)."""

import io
import math
from pathlib import PurePosixPath

import numpy as np

from .errors import CheckpointError
from .zip_archive import ZipArchive

__all__ = ["holds_arrays", "read_npz"]

_MAX_DIMENSIONS = 32
_LONGEST_HEADER = 10_000
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def holds_arrays(archive: ZipArchive) -> bool:
    """Whether every entry of an archive is an array."""
    return bool(archive.names) and all(PurePosixPath(n).suffix == ".npy" for n in archive.names)


def read_npz(archive: ZipArchive, path: str) -> dict[str, np.ndarray]:
    """The arrays of an archive by name; numbers only.

    Raises:
        CheckpointError: if an array holds objects, or more or fewer bytes than its header says.
        Exception: of any kind, if a header is damaged.
    """
    return {
        name.removesuffix(".npy"): _array(archive.read(name), f"{path}: {name}")
        for name in archive.names
    }


def _array(content: bytes, name: str) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise CheckpointError(f"{name} has version {version} of NumPy's format, not 1.0 or 2.0")
    shape, fortran, dtype = _HEADERS[version](file, max_header_size=_LONGEST_HEADER)
    if dtype.kind not in "biufc" or dtype.fields or dtype.subdtype:
        raise CheckpointError(f"{name} is an array of {dtype.kind!r} values, not of numbers")
    start = file.tell()
    if len(shape) > _MAX_DIMENSIONS or any(not 0 <= n < 2**62 for n in shape):
        raise CheckpointError(f"{name} has an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise CheckpointError(f"{name} has {len(content) - start:,} bytes, its shape is {shape}")
    values = np.frombuffer(content, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")
