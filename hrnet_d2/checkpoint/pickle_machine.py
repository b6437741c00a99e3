"""An interpreter of pickles that runs nothing and has limits.

Python's own unpickler, even with its names restricted, can be made to overflow the C stack (hashes
of deep tuples), to allocate gigabytes from a small file, or to call methods of what it has built.
This one knows all operations of protocols 0 to 5 and bounds each of them:

- names come from a table of the caller, and only what the table holds can be called;
- keys of dictionaries and elements of sets are plain values or small tuples of them;
- the number of operations, what calls may copy, and how deep the result nests are limited, and the
  result has no cycles.
"""

import codecs
import mmap
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pickletools import opcodes
from typing import Any

from .errors import UnsafeCheckpointError
from .pickle_limits import LimitError, check_key, check_nesting

__all__ = ["Builder", "PickleMachine"]

MAX_OPERATIONS = 2_000_000
_MAX_INTEGER_BYTES = 1024
_FREE_COPIES = 2**26

_Stack = list[Any]
_Step = Callable[["PickleMachine"], None]


class Builder:
    """What a pickle may call. Subclasses define ``__call__``."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError


class PickleMachine:
    """Interprets one pickle after another in a buffer.

    Args:
        data: the bytes that hold the pickle.
        find_name: gives what a module and a name stand for; raises for what is not allowed.
        set_state: gives an object its state (the BUILD operation); raises if it may not have one.
        persistent_load: gives the object of a persistent id; default: there may be none.
        start: where in ``data`` the first pickle begins.

    Attributes:
        position: where the next pickle begins.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        find_name: Callable[[str, str], Any],
        set_state: Callable[[Any, Any], None],
        persistent_load: Callable[[Any], Any] | None = None,
        start: int = 0,
    ):
        self.data = data
        self.position = start
        self.find_name = find_name
        self.set_state = set_state
        self.persistent_load = persistent_load
        self.copies = _FREE_COPIES + 8 * len(data)
        self.operations = MAX_OPERATIONS
        self.stack: _Stack = []
        self.marks: list[_Stack] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Interpret the pickle at ``position``.

        Raises:
            UnsafeCheckpointError: if it refers to something that is not in the table.
            LimitError: if it exceeds a limit.
            Exception: of any kind, if it is damaged.
        """
        self.stack, self.marks, self.memo = [], [], {}
        data, steps, stop = self.data, _STEPS, _STOP
        for done in range(self.operations):
            code = data[self.position]
            self.position += 1
            if code == stop:
                self.operations -= done
                break
            steps[code](self)
        else:
            raise LimitError(f"its pickle has more than {MAX_OPERATIONS:,} operations")
        (result,) = self.stack
        if self.marks:
            raise pickle.UnpicklingError("a mark is left on the stack")
        self.stack, self.memo = [], {}  # the machine must not keep the result alive
        check_nesting(result)
        return result

    # Pieces of the buffer

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise EOFError(f"{count} bytes are announced and missing")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise EOFError("a line does not end")
        piece = self.data[self.position : end]
        self.position = end + 1
        return piece

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> _Stack:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    # Operations with an effect

    def call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Builder) or type(args) is not tuple:
            raise UnsafeCheckpointError(f"a call of a {type(function).__name__}")
        self.charge(args)
        return function(*args)

    def charge(self, args: Any) -> None:
        """Count what a call may copy: its arguments, without what they contain."""
        for arg in args:
            if isinstance(arg, (str, bytes, bytearray)):
                self.copies -= len(arg)
            elif isinstance(arg, (tuple, list, dict, set, frozenset)):
                self.copies -= 64 * len(arg)
        if self.copies < 0:
            raise LimitError("its pickle copies its own content over and over")

    def set_items(self, items: _Stack) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise pickle.UnpicklingError(f"items for a {type(target).__name__}")
        # An OrderedDict's own method keeps its order; that of a plain dictionary is inherited.
        store = OrderedDict.__setitem__ if isinstance(target, OrderedDict) else dict.__setitem__
        for i in range(0, len(items), 2):
            key = items[i]
            if type(key) is not str:
                check_key(key)
            store(target, key, items[i + 1])

    def append(self, items: _Stack) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif isinstance(target, dict):  # stands for a sequence, whose items are not kept
            pass
        else:
            raise pickle.UnpicklingError(f"elements for a {type(target).__name__}")

    def add(self, items: _Stack) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise pickle.UnpicklingError(f"elements for a {type(target).__name__}")
        for item in items:
            check_key(item)
        target.update(items)

    def frozen(self, items: _Stack) -> None:
        for item in items:
            check_key(item)
        self.push(frozenset(items))

    def build(self) -> None:
        state = self.stack.pop()
        self.charge(state if isinstance(state, tuple) else (state,))
        self.set_state(self.stack[-1], state)

    def persistent(self, name: Any) -> None:
        if self.persistent_load is None:
            raise pickle.UnpicklingError("it refers to tensors outside the pickle")
        self.push(self.persistent_load(name))

    def instance(self) -> None:  # protocol 0
        module, name = self.line().decode("utf-8"), self.line().decode("utf-8")
        args = tuple(self.pop_mark())
        self.push(self.call(self.find_name(module, name), args))

    def new_object(self, keywords: bool) -> None:
        if keywords and self.stack.pop() != {}:
            raise pickle.UnpicklingError("an object with keyword arguments")
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def integer(self, data: bytes) -> None:
        if len(data) > _MAX_INTEGER_BYTES:
            raise LimitError(f"an integer has {len(data):,} bytes")
        self.push(int.from_bytes(data, "little", signed=True))

    def decimal(self) -> None:
        text = self.line().rstrip(b"L")
        if len(text) > _MAX_INTEGER_BYTES:
            raise LimitError(f"an integer has {len(text):,} digits")
        booleans = {b"00": False, b"01": True}
        self.push(booleans[text] if text in booleans else int(text))

    def quoted(self) -> None:  # protocol 0
        text = self.line().strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise pickle.UnpicklingError("a text without quotes")
        decoded: Any = codecs.escape_decode(text[1:-1])
        self.push(decoded[0].decode("latin1"))

    def recall(self, index: int) -> None:
        self.push(self.memo[index])


_STOP = ord(".")


def _unknown(machine: PickleMachine) -> None:
    code = machine.data[machine.position - 1]
    raise pickle.UnpicklingError(f"{code:#04x} is not an operation of a pickle")


def _refused(machine: PickleMachine) -> None:
    raise UnsafeCheckpointError("an extension code or a buffer outside the pickle")


def _protocol(m: PickleMachine) -> None:
    if m.number(1) > pickle.HIGHEST_PROTOCOL:
        raise pickle.UnpicklingError("a pickle protocol from the future")


def _skip_frame_length(m: PickleMachine) -> None:
    m.take(8)


def _pop_mark(m: PickleMachine) -> None:
    m.pop_mark()


def _put(m: PickleMachine, index: int) -> None:
    m.memo[index] = m.stack[-1]


def _replace_top(count: int) -> _Step:
    def step(m: PickleMachine) -> None:
        stack = m.stack
        if len(stack) < count:
            raise pickle.UnpicklingError("too few values for a tuple")
        stack[-count:] = [tuple(stack[-count:])]

    return step


def _reduce(m: PickleMachine) -> None:
    args = m.stack.pop()
    m.stack[-1] = m.call(m.stack[-1], args)


def _object(m: PickleMachine) -> None:  # protocol 1
    function, *args = m.pop_mark()
    m.push(m.call(function, tuple(args)))


def _mark(m: PickleMachine) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _pop(m: PickleMachine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _name(m: PickleMachine) -> None:
    module, name = m.line().decode("utf-8"), m.line().decode("utf-8")
    m.push(m.find_name(module, name))


def _name_from_stack(m: PickleMachine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise pickle.UnpicklingError("a name that is not text")
    m.push(m.find_name(module, name))


def _float(m: PickleMachine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


def _bytes(size: int) -> _Step:
    return lambda m: m.push(m.take(m.number(size)))


def _old_text(size: int) -> _Step:
    """Text of Python 2: bytes, which arrays too are written as."""
    return lambda m: m.push(m.take(m.number(size)).decode("latin1"))


def _text(size: int) -> _Step:
    return lambda m: m.push(m.take(m.number(size)).decode("utf-8", "surrogatepass"))


_BY_NAME: dict[str, _Step] = {
    "PROTO": _protocol,
    "FRAME": _skip_frame_length,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda m: m.push(m.stack[-1]),
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "INT": PickleMachine.decimal,
    "LONG": PickleMachine.decimal,
    "BININT": lambda m: m.integer(m.take(4)),
    "BININT1": lambda m: m.push(m.number(1)),
    "BININT2": lambda m: m.push(m.number(2)),
    "LONG1": lambda m: m.integer(m.take(m.number(1))),
    "LONG4": lambda m: m.integer(m.take(m.number(4))),
    "FLOAT": lambda m: m.push(float(m.line())),
    "BINFLOAT": _float,
    "STRING": PickleMachine.quoted,
    "SHORT_BINSTRING": _old_text(1),
    "BINSTRING": _old_text(4),
    "SHORT_BINBYTES": _bytes(1),
    "BINBYTES": _bytes(4),
    "BINBYTES8": _bytes(8),
    "BYTEARRAY8": lambda m: m.push(bytearray(m.take(m.number(8)))),
    "UNICODE": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    "SHORT_BINUNICODE": _text(1),
    "BINUNICODE": _text(4),
    "BINUNICODE8": _text(8),
    "EMPTY_LIST": lambda m: m.push([]),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "EMPTY_DICT": lambda m: m.push({}),
    "EMPTY_SET": lambda m: m.push(set()),
    "TUPLE1": _replace_top(1),
    "TUPLE2": _replace_top(2),
    "TUPLE3": _replace_top(3),
    "TUPLE": lambda m: _push_marked(m, tuple),
    "LIST": lambda m: _push_marked(m, list),
    "DICT": lambda m: _push_dict(m),
    "FROZENSET": lambda m: m.frozen(m.pop_mark()),
    "APPEND": lambda m: m.append([m.stack.pop()]),
    "APPENDS": lambda m: m.append(m.pop_mark()),
    "SETITEM": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m: m.set_items(m.pop_mark()),
    "ADDITEMS": lambda m: m.add(m.pop_mark()),
    "PUT": lambda m: _put(m, int(m.line()[:20])),
    "BINPUT": lambda m: _put(m, m.number(1)),
    "LONG_BINPUT": lambda m: _put(m, m.number(4)),
    "MEMOIZE": lambda m: _put(m, len(m.memo)),
    "GET": lambda m: m.recall(int(m.line()[:20])),
    "BINGET": lambda m: m.recall(m.number(1)),
    "LONG_BINGET": lambda m: m.recall(m.number(4)),
    "GLOBAL": _name,
    "STACK_GLOBAL": _name_from_stack,
    "REDUCE": _reduce,
    "BUILD": PickleMachine.build,
    "INST": PickleMachine.instance,
    "OBJ": _object,
    "NEWOBJ": lambda m: m.new_object(keywords=False),
    "NEWOBJ_EX": lambda m: m.new_object(keywords=True),
    "PERSID": lambda m: m.persistent(m.line().decode("utf-8")),
    "BINPERSID": lambda m: m.persistent(m.stack.pop()),
    "EXT1": _refused,
    "EXT2": _refused,
    "EXT4": _refused,
    "NEXT_BUFFER": _refused,
    "READONLY_BUFFER": _refused,
}


def _push_marked(m: PickleMachine, kind: Callable[[_Stack], Any]) -> None:
    items = m.pop_mark()
    m.push(kind(items))


def _push_dict(m: PickleMachine) -> None:
    items = m.pop_mark()
    m.push({})
    m.set_items(items)


_STEPS: list[_Step] = [_unknown] * 256
for _opcode in opcodes:
    if _opcode.name != "STOP":
        _STEPS[ord(_opcode.code)] = _BY_NAME[_opcode.name]
