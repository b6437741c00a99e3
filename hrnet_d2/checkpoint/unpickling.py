"""A pickle reader that runs nothing.

A pickle is a program: it may import and call whatever it names. This reader resolves names from a
fixed table only. The table has functions that rebuild tensors and arrays from checked arguments,
and *stand-ins* for what MMDetection's trainers save with the weights, which take the place of an
object of another library and have no behavior. Any other name is refused.

The module exposes pickle's interface (``Unpickler``, ``load``), so that ``torch.load`` can use it.
"""

import math
import pickle
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch

from .errors import UnsafeCheckpointError

__all__ = ["StandIn", "Unpickler", "load"]

# Numbers and booleans: kind and size in bytes, as numpy writes them into a pickle.
_NUMERIC_DTYPE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|c(?:8|16))")
_TEXT_ENCODINGS = ("latin1", "latin-1", "utf-8", "utf8", "ascii")


class _Sealed(type):
    """A class whose attributes a pickle cannot set."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise UnsafeCheckpointError("the pickle sets attributes of a class")


class StandIn(dict, metaclass=_Sealed):
    """In the place of an object of another library: keeps the items of a dictionary-like one,
    forgets everything else and does nothing."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # dict has none
    __eq__ = object.__eq__

    def __init__(self, *args: Any, **_: Any):
        super().__init__(args[0] if len(args) == 1 and isinstance(args[0], dict) else ())

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class _Function:
    """A function of the table; a pickle can call it and nothing else."""

    __slots__ = ("_function",)
    _function: Callable

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UnsafeCheckpointError("the pickle sets attributes of a function")

    def __setstate__(self, state: Any) -> None:
        raise UnsafeCheckpointError("the pickle sets the state of a function")

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Dtype:
    """A numpy dtype by its name; ``value`` is None for anything but numbers."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *_: Any):
        if isinstance(name, bytes):
            name = name.decode("latin1")
        known = isinstance(name, str) and _NUMERIC_DTYPE.fullmatch(name)
        self.value = np.dtype(name) if known else None

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if self.value is not None and order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """A numpy array that takes only numbers as its state, as many as its shape says."""

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, data = state[-4:]
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array's dtype is not a dtype")
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        if dtype.value is None or not isinstance(data, (bytes, bytearray)):
            return  # text or objects: stays empty
        values = _numbers(bytes(data), dtype, shape)
        checked: Any = (1, tuple(shape), values.dtype, bool(fortran), bytes(data))
        super().__setstate__(checked)


def _numbers(data: bytes, dtype: _Dtype, shape: tuple) -> np.ndarray:
    """A flat, checked view of an array's bytes."""
    if dtype.value is None:
        raise pickle.UnpicklingError("an array of objects")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise pickle.UnpicklingError(f"an array has the shape {shape}")
    if len(data) != math.prod(shape) * dtype.value.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype.value)


def _empty_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.float32)


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.value is None:
        return StandIn()
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    return _numbers(bytes(data), dtype, shape).reshape(shape, order=order).copy()


def _scalar(dtype: Any, data: Any = None) -> Any:
    """A numpy scalar, as Python's own number."""
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(dtype, _Dtype) or dtype.value is None or not isinstance(data, bytes):
        return StandIn()
    return _numbers(data, dtype, (1,))[0].item()


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A tensor over a storage that ``torch.load`` read; hooks and gradients are left out."""
    if not isinstance(storage, (torch.storage.TypedStorage, torch.storage.UntypedStorage)):
        raise pickle.UnpicklingError("a tensor's storage is not a storage")
    return torch._utils._rebuild_tensor_v2(
        storage, int(offset), tuple(size), tuple(stride), False, OrderedDict()
    )


def _parameter(data: Any, *_: Any) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise pickle.UnpicklingError("a parameter's data are not a tensor")
    return data


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in _TEXT_ENCODINGS:
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode(encoding)


class _Method:
    """In the place of a method of another library's class: can be kept, but not called."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        raise UnsafeCheckpointError(self.name)

    def __call__(self, *_: Any) -> Any:
        raise UnsafeCheckpointError(self.name)


def _getattr(owner: Any, name: Any) -> _Method:
    """A method of a stood-in class, as its objects may refer to one; of nothing else."""
    if not isinstance(owner, _Sealed):
        raise UnsafeCheckpointError("builtins.getattr")
    return _Method(f"{owner.__module__}.{owner.__qualname__}.{name}")


def _sequence(kind: type) -> Callable:
    def build(items: Any = (), *_: Any) -> Any:
        if isinstance(items, str):
            items = items.encode("latin1")
        if not isinstance(items, (list, tuple, set, bytes, bytearray)):
            raise pickle.UnpicklingError(f"a {kind.__name__} of a {type(items).__name__}")
        return kind(items)

    return build


def _stand_ins(module: str, *names: str) -> dict[str, Any]:
    return {
        name: _Sealed(name, (StandIn,), {"__module__": module, "__slots__": ()}) for name in names
    }


def _functions(**functions: Callable) -> dict[str, Any]:
    return {name: _Function(function) for name, function in functions.items()}


_NUMPY_ARRAYS = _functions(_reconstruct=_empty_array, scalar=_scalar)
_NUMPY_BUFFERS = _functions(_frombuffer=_array_from_buffer)

# Every name that a pickle may use: module to name to what stands for it.
_ALLOWED: dict[str, dict[str, Any]] = {
    "collections": {
        "OrderedDict": OrderedDict,
        **_stand_ins("collections", "defaultdict", "Counter", "deque"),
    },
    "builtins": {
        **_functions(
            set=_sequence(set),
            frozenset=_sequence(frozenset),
            list=_sequence(list),
            tuple=_sequence(tuple),
            bytes=_sequence(bytes),
            bytearray=_sequence(bytearray),
            complex=complex,
            getattr=_getattr,
        ),
        **_stand_ins("builtins", "slice", "range"),
    },
    "_codecs": _functions(encode=_encode),
    "torch._utils": _functions(
        _rebuild_tensor=_tensor,
        _rebuild_tensor_v2=_tensor,
        _rebuild_parameter=_parameter,
        _rebuild_parameter_with_state=_parameter,
    ),
    "torch": {
        **_functions(Size=_sequence(tuple)),
        **_stand_ins("torch", "device"),
        **{name: kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)},
    },
    "numpy": {"ndarray": _Function(_empty_array), "dtype": _Function(_Dtype)},
    "numpy.core.multiarray": _NUMPY_ARRAYS,
    "numpy._core.multiarray": _NUMPY_ARRAYS,
    "numpy.core.numeric": _NUMPY_BUFFERS,
    "numpy._core.numeric": _NUMPY_BUFFERS,
    # What MMDetection 2.x (mmcv) and 3.x (mmengine) keep of their logs and configs.
    "mmengine.logging.history_buffer": _stand_ins(
        "mmengine.logging.history_buffer", "HistoryBuffer"
    ),
    "mmengine.config.config": _stand_ins("mmengine.config.config", "Config", "ConfigDict"),
    "mmengine.config": _stand_ins("mmengine.config", "Config", "ConfigDict"),
    "mmcv.utils.config": _stand_ins("mmcv.utils.config", "Config", "ConfigDict"),
    "addict.addict": _stand_ins("addict.addict", "Dict"),
    "argparse": _stand_ins("argparse", "Namespace"),
    "pathlib": _stand_ins(
        "pathlib", "Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"
    ),
}


class Unpickler(pickle.Unpickler):
    """As ``pickle.Unpickler``, over the table above.

    Raises:
        UnsafeCheckpointError: at the first name that is not in the table; its text is that name.
    """

    def find_class(self, module: str, name: str) -> Any:
        # Protocols up to 2 write the names of Python 2.
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        module = IMPORT_MAPPING.get(module, module)
        try:
            return _ALLOWED[module][name]
        except KeyError:
            raise UnsafeCheckpointError(f"{module}.{name}") from None


def load(file: BinaryIO, **kwargs: Any) -> Any:
    """As ``pickle.load``, restricted."""
    return Unpickler(file, **kwargs).load()
