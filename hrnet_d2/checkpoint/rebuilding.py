"""Tensors out of pickles: what PyTorch's rebuilding functions do, over checked arguments."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["NotDense", "Storage", "StorageType", "names"]

_MAX_DIMENSIONS = 32
_MAX_EXPANDED = 2**16


@dataclass(frozen=True)
class StorageType:
    """The type of a storage; ``dtype`` is None for one of plain bytes, and for those of quantized
    tensors, which are never built."""

    name: str
    dtype: torch.dtype | None
    itemsize: int


@dataclass(frozen=True)
class Storage:
    """Bytes that tensors are views of."""

    kind: StorageType
    content: torch.UntypedStorage


@dataclass(frozen=True)
class NotDense:
    """In the place of a tensor that is not an array of numbers.

    Attributes:
        kind: "sparse", "quantized", "meta", "nested", ....
    """

    kind: str


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise pickle.UnpicklingError("a tensor's size, stride or offset is not a size")
    return value


def _dense(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None
) -> torch.Tensor | NotDense:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor's storage is not a storage")
    if dtype is None:
        return NotDense("quantized")
    sizes, strides = [_size(n) for n in tuple(size)], [_size(n) for n in tuple(stride)]
    if len(sizes) != len(strides) or len(sizes) > _MAX_DIMENSIONS:
        raise pickle.UnpicklingError("a tensor's sizes and strides do not match")
    last, numel = _size(offset), 1
    for n, step in zip(sizes, strides, strict=True):
        last += (n - 1) * step
        numel *= n
    available = storage.content.nbytes() // dtype.itemsize
    if numel and last >= available:
        raise pickle.UnpicklingError(
            f"a tensor of {numel:,} values begins at {offset:,} of a storage of {available:,}"
        )
    if numel > max(available, _MAX_EXPANDED):
        raise pickle.UnpicklingError(f"a storage of {available:,} values is expanded to {numel:,}")
    empty = torch.empty(0, dtype=dtype)
    if not numel:
        return empty.reshape(sizes)
    return empty.set_(storage.content, offset, sizes, strides)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    marks: Any = None,
    *_: Any,
) -> Any:
    """``_rebuild_tensor`` and ``_rebuild_tensor_v2``; hooks and gradients are left out."""
    if marks:  # what its values are read as
        return NotDense("negated or conjugated")
    dtype = storage.kind.dtype if isinstance(storage, Storage) else None
    return _dense(storage, offset, size, stride, dtype)


def _tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    marks: Any = None,
    *_: Any,
) -> Any:
    """For dtypes without a storage type of their own, such as the unsigned and 8-bit ones."""
    if marks:
        return NotDense("negated or conjugated")
    if not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError("a tensor's dtype is not a dtype")
    return _dense(storage, offset, size, stride, dtype)


def _parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, (torch.Tensor, NotDense)):
        raise pickle.UnpicklingError("a parameter's data are not a tensor")
    return data


def _not_dense(kind: str) -> Callable:
    return lambda *_: NotDense(kind)


_QUANTIZED = ("quint8", "qint8", "qint32", "quint4x2", "quint2x4")
_TYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_BYTES_ONLY = {"QUInt8": 1, "QInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1, "Untyped": 1}
_STORAGE_TYPES = {
    f"{name}Storage": StorageType(f"{name}Storage", dtype, size)
    for name, dtype, size in (
        *((name, dtype, dtype.itemsize) for name, dtype in _TYPES.items()),
        *((name, None, size) for name, size in _BYTES_ONLY.items()),
    )
}
_DTYPES = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and name not in _QUANTIZED
}
_MARKS = {
    name: NotDense(name)
    for name in (
        *("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams"),
        *("per_tensor_symmetric", "per_channel_symmetric"),
        *_QUANTIZED,
    )
}


def names() -> dict[str, tuple[dict[str, Callable], dict[str, Any]]]:
    """PyTorch's names that a pickle may use: module to functions and values."""
    return {
        "torch._utils": (
            {
                "_rebuild_tensor": _tensor,
                "_rebuild_tensor_v2": _tensor,
                "_rebuild_tensor_v3": _tensor_v3,
                "_rebuild_parameter": _parameter,
                "_rebuild_parameter_with_state": _parameter,
                "_rebuild_sparse_tensor": _not_dense("sparse"),
                "_rebuild_sparse_csr_tensor": _not_dense("sparse"),
                "_rebuild_nested_tensor": _not_dense("nested"),
                "_rebuild_qtensor": _not_dense("quantized"),
                "_rebuild_meta_tensor_no_storage": _not_dense("meta"),
                "_rebuild_wrapper_subclass": _not_dense("wrapped"),
                "_rebuild_device_tensor_from_numpy": _not_dense("device"),
                "_rebuild_device_tensor_from_cpu_tensor": _not_dense("device"),
            },
            {},
        ),
        "torch._tensor": ({"_rebuild_from_type_v2": _not_dense("subclassed")}, {}),
        "torch.nested._internal.nested_tensor": ({"NestedTensor": _not_dense("nested")}, {}),
        "torch.serialization": ({"_get_layout": _not_dense("layout")}, {}),
        "torch": ({}, {**_DTYPES, **_MARKS, **_STORAGE_TYPES}),
        "torch.cuda": ({}, _STORAGE_TYPES),
        "torch.storage": ({}, _STORAGE_TYPES),
    }
