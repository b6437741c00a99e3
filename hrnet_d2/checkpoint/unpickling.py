"""The names that a pickle may use.

A pickle is a program: it may import and call whatever it names. Here names come from a fixed table
only. The table has functions that rebuild tensors and arrays from checked arguments, and
*stand-ins* for what MMDetection's trainers save with the weights, which take the place of an object
of another library and have no behavior. Any other name is refused.
"""

import math
import mmap
import pickle
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from . import rebuilding
from .errors import UnsafeCheckpointError
from .pickle_limits import check_key
from .pickle_machine import Builder, PickleMachine

__all__ = ["StandIn", "unpickler"]

# Numbers and booleans: kind and size in bytes, as NumPy writes them into a pickle.
_NUMERIC_DTYPE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|c(?:8|16))")
_TEXT_ENCODINGS = ("latin1", "latin-1", "utf-8", "utf8", "ascii")
_MAX_DIMENSIONS = 32


class StandIn(dict):
    """In the place of an object of another library: keeps the items of a dictionary-like one,
    forgets everything else and does nothing."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # dict has none
    __eq__ = object.__eq__


class _StandInClass(Builder):
    """In the place of a class of another library; calling it makes a stand-in."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args: Any) -> StandIn:
        items = args[0] if len(args) == 1 and isinstance(args[0], dict) else {}
        return StandIn(items)


class _Function(Builder):
    """A function of the table."""

    __slots__ = ("function",)

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class _Method(Builder):
    """In the place of a method of another library's class: can be kept, but not called."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *_: Any) -> Any:
        raise UnsafeCheckpointError(self.name)


class _Dtype:
    """A NumPy dtype by its name; ``value`` is None for anything but numbers."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *_: Any):
        if isinstance(name, bytes):
            name = name.decode("latin1")
        known = isinstance(name, str) and _NUMERIC_DTYPE.fullmatch(name)
        self.value = np.dtype(name) if known else None

    def set_state(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if self.value is not None and order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """A NumPy array that takes only numbers as its state, as many as its shape says."""

    of_numbers = True

    def set_state(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array's dtype is not a dtype")
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        if dtype.value is None or not isinstance(data, (bytes, bytearray)):
            self.of_numbers = False  # text or objects: stays empty
            return
        values = _numbers(bytes(data), dtype, shape)
        checked: Any = (1, tuple(shape), values.dtype, bool(fortran), bytes(data))
        super().__setstate__(checked)


def _numbers(data: bytes, dtype: _Dtype, shape: Any) -> np.ndarray:
    """A flat, checked view of an array's bytes."""
    if dtype.value is None:
        raise pickle.UnpicklingError("an array of objects")
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise pickle.UnpicklingError("an array's shape is no tuple of a few sizes")
    if any(type(n) is not int or not 0 <= n < 2**62 for n in shape):
        raise pickle.UnpicklingError("an array's shape has something other than sizes")
    if len(data) != math.prod(shape) * dtype.value.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype.value)


def _empty_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.float32)


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.value is None:
        return StandIn()
    if not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array of something other than bytes")
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    return _numbers(bytes(data), dtype, shape).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any = None) -> Any:
    """A NumPy scalar, as Python's own number."""
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(dtype, _Dtype) or dtype.value is None or not isinstance(data, bytes):
        return StandIn()
    return _numbers(data, dtype, (1,))[0].item()


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in _TEXT_ENCODINGS:
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode(encoding)


def _getattr(owner: Any, name: Any) -> _Method:
    """A method of a stood-in class, as its objects may refer to one; of nothing else."""
    if not isinstance(owner, _StandInClass) or not isinstance(name, str):
        raise UnsafeCheckpointError("builtins.getattr")
    return _Method(f"{owner.name}.{name[:100]}")


def _reconstruct_object(cls: Any, *_: Any) -> StandIn:
    """How protocols 0 and 1 write objects."""
    if not isinstance(cls, _StandInClass):
        raise UnsafeCheckpointError("copyreg._reconstructor")
    return cls()


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("an OrderedDict without a list of pairs")
    ordered: OrderedDict[Any, Any] = OrderedDict()
    for pair in items:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise pickle.UnpicklingError("an OrderedDict without pairs")
        check_key(pair[0])
        ordered[pair[0]] = pair[1]
    return ordered


def _sequence(kind: type) -> Callable:
    def build(items: Any = (), *_: Any) -> Any:
        if isinstance(items, str):
            items = items.encode("latin1")
        if not isinstance(items, (list, tuple, set, bytes, bytearray)):
            raise pickle.UnpicklingError(f"a {kind.__name__} of a {type(items).__name__}")
        if kind in (set, frozenset):
            for item in items:
                check_key(item)
        plain = isinstance(items, (bytes, bytearray)) or all(type(item) is int for item in items)
        if kind in (bytes, bytearray) and not plain:
            raise pickle.UnpicklingError(f"a {kind.__name__} of something other than numbers")
        return kind(items)

    return build


def _complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _stand_ins(module: str, *names: str) -> dict[str, Builder]:
    return {name: _StandInClass(f"{module}.{name}") for name in names}


def _functions(**functions: Callable) -> dict[str, Any]:
    return {name: _Function(function) for name, function in functions.items()}


_NUMPY_ARRAYS = _functions(_reconstruct=_empty_array, scalar=_scalar)
_NUMPY_BUFFERS = _functions(_frombuffer=_array_from_buffer)
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_CONFIGS = ("Config", "ConfigDict")

# Every name that a pickle may use: module to name to what stands for it.
_ALLOWED: dict[str, dict[str, Any]] = {
    "collections": {
        "OrderedDict": _Function(_ordered),
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
            complex=_complex,
            getattr=_getattr,
        ),
        **_stand_ins("builtins", "slice", "range", "object"),
    },
    "copyreg": _functions(_reconstructor=_reconstruct_object),
    "_codecs": _functions(encode=_encode),
    **{
        module: {**_functions(**functions), **values}
        for module, (functions, values) in rebuilding.names().items()
    },
    "numpy": _functions(ndarray=_empty_array, dtype=_Dtype),
    "numpy.core.multiarray": _NUMPY_ARRAYS,
    "numpy._core.multiarray": _NUMPY_ARRAYS,
    "numpy.core.numeric": _NUMPY_BUFFERS,
    "numpy._core.numeric": _NUMPY_BUFFERS,
    # What MMDetection 2.x (mmcv) and 3.x (mmengine) keep of their logs and configs.
    "mmengine.logging.history_buffer": _stand_ins(
        "mmengine.logging.history_buffer", "HistoryBuffer"
    ),
    "mmengine.config.config": _stand_ins("mmengine.config.config", *_CONFIGS),
    "mmengine.config": _stand_ins("mmengine.config", *_CONFIGS),
    "mmcv.utils.config": _stand_ins("mmcv.utils.config", *_CONFIGS),
    "addict.addict": _stand_ins("addict.addict", "Dict"),
    "argparse": _stand_ins("argparse", "Namespace"),
    "pathlib": _stand_ins("pathlib", *_PATHS),
    "pathlib._local": _stand_ins("pathlib._local", *_PATHS),  # as Python 3.13 writes them
}
_ALLOWED["torch"].update(
    **_functions(Size=_sequence(tuple)),
    **_stand_ins("torch", "device"),
)


def _find_name(module: str, name: str) -> Any:
    # Protocols up to 2 write the names of Python 2.
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    module = IMPORT_MAPPING.get(module, module)
    try:
        return _ALLOWED[module][name]
    except KeyError:
        raise UnsafeCheckpointError(f"{module[:200]}.{name[:200]}") from None


def _set_state(target: Any, state: Any) -> None:
    if isinstance(target, (_Array, _Dtype)):
        target.set_state(state)
    elif not isinstance(target, (StandIn, OrderedDict, rebuilding.NotDense)):
        # Attributes of a state_dict (its versions) and of stand-ins are not kept.
        raise UnsafeCheckpointError(f"the state of a {type(target).__name__}")


def unpickler(
    data: bytes | mmap.mmap,
    persistent_load: Callable[[Any], Any] | None = None,
    start: int = 0,
) -> PickleMachine:
    """A pickle machine over the table.

    Args:
        data: the bytes that hold one or several pickles.
        persistent_load: gives the object of a persistent id.
        start: where the first pickle begins.
    """
    return PickleMachine(data, _find_name, _set_state, persistent_load, start)
