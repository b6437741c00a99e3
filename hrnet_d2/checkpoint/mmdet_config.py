"""The text of an MMDetection config to values, executing nothing.

MMDetection keeps the config of a training as Python source in a checkpoint's ``meta``:

* 3.x (``meta["cfg"]``) and 2.x (``meta["config"]``): the merged config printed anew
  (``pretty_text``);
* early 2020: the raw text of one file, or the texts of all base files one after another with a
  line of each file's path before it, which is not valid Python as a whole;
* 1.x: the raw text of one file.

This reader takes the assignments out of such a text and computes what they say over a small part
of Python: literals, ``dict(...)``, names assigned before, ``**name``, arithmetic, ``_delete_``.
Whatever else there is, is named in :attr:`ParsedConfig.unread` and left.  Nothing is evaluated,
imported or called, and length, depth and sizes are bounded.
"""

import ast
import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ParsedConfig", "Unread", "parse_config"]

MAX_TEXT = 400_000  # characters of a text
MAX_TOKENS = 120_000  # of a text, those that are read again counted again
MAX_DEPTH = 60  # of brackets
MAX_CHAIN = 300  # operators and operands between two commas
MAX_ITEMS = 10_000  # of a repeated list or string
MAX_WORK = 100_000  # values computed, those behind names counted each time
MAX_NUMBER = 1e18
_MAX_RECOVERIES = 20
_MAX_NOTES = 50

# A config file's own path on a line of its own, as mmcv put it before the file's text.
_PATH_LINE = re.compile(r"^(?:/|[A-Za-z]:[\\/])[^=\"'()\[\]{}\n]*\.py[ \t\r]*$", re.MULTILINE)
_TOKEN = re.compile(
    r"""
    (?P<triple>'''(?:\\.|[^\\])*?(?:'''|\Z)|\"\"\"(?:\\.|[^\\])*?(?:\"\"\"|\Z))
  | (?P<string>'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")
  | (?P<comment>\#[^\n]*)
  | (?P<open>[(\[{])
  | (?P<close>[)\]}])
  | (?P<joined>\\\r?\n)
  | (?P<newline>\n)
  | (?P<comma>,)
  | (?P<space>[ \t\r\f]+)
  | (?P<word>\w+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\s*(?:=(?!=)|\+=|:|\[|=\s*[A-Za-z_])")
_RECOVERY = re.compile(r"^[A-Za-z_]\w*[ \t]*=[ \t]*(?=dict\(|[\[('\"\d])", re.MULTILINE)
# What configs call to make a dictionary of keywords.
_DICTS = ("dict", "ConfigDict", "Config", "OrderedDict")
_DELETE = "_delete_"
_CONSTANTS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Unread:
    """In the place of a value that could not be read; ``text`` is how the file writes it."""

    text: str


@dataclass
class ParsedConfig:
    """What a config's text says.

    Attributes:
        values: name to value, of the last assignment; dictionaries of later files are merged into
            those of their base files.
        unread: what could not be read, each as "name: the text".
        files: number of files whose texts stand one after another.
    """

    values: dict[str, Any] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    files: int = 1


def parse_config(text: str) -> ParsedConfig:
    """Read the text of a config, whatever MMDetection wrote it.

    Args:
        text: Python source, or the sources of several files with a path line before each.

    Returns:
        The values; a text that says nothing gives none, and no error is raised.
    """
    parsed = ParsedConfig()
    if len(text) > MAX_TEXT:
        parsed.unread.append(f"the whole text: {len(text):,} characters, more than {MAX_TEXT:,}")
        return parsed
    sections = _sections(text.replace("\0", " "))
    parsed.files = len(sections)
    work, tokens = _Budget(MAX_WORK), _Budget(MAX_TOKENS)
    for section in sections:
        reader = _Reader(parsed.unread, work)
        try:
            for statement in _statements(section, tokens):
                reader.read(statement)
        except _TooMuchError as error:
            parsed.unread.append(f"the rest of the text: {error}")
        parsed.values = _merge(parsed.values, reader.names)
    if "_base_" in parsed.values:
        bases = parsed.values.pop("_base_")
        if parsed.files == 1:
            parsed.unread.append(f"_base_: {_shortened(repr(bases))} is not part of the text")
    del parsed.unread[_MAX_NOTES:]
    return parsed


def _sections(text: str) -> list[str]:
    """The texts of the files; one where there are no path lines."""
    parts = [part for part in _PATH_LINE.split(text) if part.strip()]
    return parts or [""]


def _statements(text: str, tokens: "_Budget") -> Iterator[str]:
    """The statements at the left margin; one that is too deep or never ends is given as it is."""
    start = 0
    recoveries = 0
    while start < len(text):
        complete = True
        for statement, end, complete in _scan(text, start, tokens):
            if complete:
                yield statement
            else:
                yield _first_line(statement)
                start = end
        if complete:
            return
        # A bracket is never closed: go on from the next line that is plainly an assignment.
        following = _RECOVERY.search(text, text.find("\n", start) + 1 or len(text))
        recoveries += 1
        if following is None or recoveries > _MAX_RECOVERIES:
            return
        start = following.start()


def _scan(text: str, start: int, tokens: "_Budget") -> Iterator[tuple[str, int, bool]]:
    """(statement, where it begins, whether its brackets are closed and its depth is bearable)."""
    depth, begin, bearable = 0, start, True
    chains = [0]
    for token in _TOKEN.finditer(text, start):
        kind = token.lastgroup
        tokens.spend()
        if kind in ("space", "comment", "joined"):
            continue
        if kind == "newline":
            if depth == 0:
                after = text[token.end() : token.end() + 1]
                if after in (" ", "\t"):
                    continue  # the body of a compound statement
                if statement := text[begin : token.start()].strip():
                    yield (statement if bearable else _first_line(statement)), begin, True
                begin, bearable, chains = token.end(), True, [0]
            continue
        chains[-1] += 1
        if kind == "open":
            depth += 1
            chains.append(0)
        elif kind == "close":
            if depth:
                depth -= 1
                chains.pop()
        elif kind == "comma":
            chains[-1] = 0
        bearable &= depth <= MAX_DEPTH and chains[-1] <= MAX_CHAIN
    if rest := text[begin:].strip():
        yield (rest if bearable else _first_line(rest)), begin, depth == 0


def _first_line(statement: str) -> str:
    """So much of a statement that it is named; it is cut where it cannot be parsed any more."""
    return statement.split("\n", 1)[0][:120] + " ("


def _shortened(text: str, length: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 4] + " ..."


class _TooMuchError(Exception):
    """A value that is not read; its text is why, or empty."""


class _Budget:
    """What all statements of a text together may compute."""

    def __init__(self, left: int):
        self.left = left

    def spend(self, amount: int = 1) -> None:
        self.left -= amount
        if self.left < 0:
            raise _TooMuchError("too much to read")


class _Reader:
    """The names of one file, statement by statement."""

    def __init__(self, unread: list[str], work: _Budget):
        self.names: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._unread = unread
        self._work = work

    def read(self, statement: str) -> None:
        """Take over what a statement assigns; anything else is noted."""
        if self._work.left < 0:
            raise _TooMuchError("too much to read")
        if statement.startswith(("'", '"', "#")):
            return  # a docstring
        if not _ASSIGNMENT.match(statement):
            self._note(statement)
            return
        try:
            nodes = ast.parse(statement).body
        # MemoryError and RecursionError: what the parser says of a statement that is too nested.
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            self._note(statement)
            self._forget(statement)
            return
        for node in nodes:
            if isinstance(node, ast.Assign):
                self._assign(node.targets, node.value, statement)
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                self._assign([node.target], node.value, statement)
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                name = ast.Name(node.target.id, ast.Load())
                self._assign([node.target], ast.BinOp(name, node.op, node.value), statement)
            else:
                self._note(statement)

    def _assign(self, targets: list[ast.expr], node: ast.expr, statement: str) -> None:
        before = self._work.left
        for target in targets:
            if isinstance(target, ast.Name):
                self.names[target.id] = self._value(node, target.id)
                self._sizes[target.id] = max(1, before - self._work.left)
            elif not self._set_item(target, node):
                self._note(statement)

    def _set_item(self, target: ast.expr, node: ast.expr) -> bool:
        """``model["neck"]["stride"] = 2``, on dictionaries that were read."""
        keys: list[Any] = []
        while isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            keys.append(target.slice.value)
            target = target.value
        if not keys or not isinstance(target, ast.Name) or target.id not in self.names:
            return False
        value = self._value(node, f"{target.id}.{'.'.join(map(str, reversed(keys)))}")
        changed = _with_item(self.names[target.id], list(reversed(keys)), value)
        if changed is None:
            return False
        self.names[target.id] = changed
        self._sizes[target.id] = self._sizes.get(target.id, 1) + 1
        return True

    def _forget(self, statement: str) -> None:
        """What a statement that cannot be read assigns is not what was assigned before."""
        if match := re.match(r"([A-Za-z_]\w*)\s*(?:=|\+=|:)", statement):
            self.names[match[1]] = Unread(_shortened(statement))

    def _note(self, text: str, place: str = "") -> None:
        if len(self._unread) < _MAX_NOTES:
            self._unread.append(f"{place}: {_shortened(text)}" if place else _shortened(text))

    def _value(self, node: ast.expr, place: str) -> Any:
        """The value of an expression; an ``Unread`` where it is none of those that are read."""
        if isinstance(node, ast.Constant) and isinstance(node.value, _CONSTANTS):
            self._work.left -= 1
            return node.value
        try:
            self._work.spend()
            return self._compute(node, place)
        except (_TooMuchError, ArithmeticError, TypeError, ValueError, RecursionError) as error:
            text = "..."
            if len(self._unread) < _MAX_NOTES:
                with contextlib.suppress(ValueError, RecursionError):
                    text = ast.unparse(node)
            reason = f" ({error})" if isinstance(error, _TooMuchError) and str(error) else ""
            self._note(_shortened(text) + reason, place)
            return Unread(_shortened(text))

    def _compute(self, node: ast.expr, place: str) -> Any:
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            if any(isinstance(item, ast.Starred) for item in node.elts):
                raise _TooMuchError
            items = [self._value(item, f"{place}[{i}]") for i, item in enumerate(node.elts)]
            return tuple(items) if isinstance(node, ast.Tuple) else items
        if isinstance(node, ast.Dict):
            return self._dictionary(zip(node.keys, node.values, strict=True), place)
        if isinstance(node, ast.Call):
            return self._call(node, place)
        if isinstance(node, ast.Name):
            if node.id not in self.names:
                raise _TooMuchError
            self._work.spend(self._sizes.get(node.id, 1))
            return self.names[node.id]
        if isinstance(node, ast.UnaryOp):
            return _unary(node.op, self._value(node.operand, place))
        if isinstance(node, ast.BinOp):
            before = self._work.left
            left, right = self._value(node.left, place), self._value(node.right, place)
            return self._binary(node.op, left, right, before)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, (ast.Constant, ast.UnaryOp)):
            owner, key = self._value(node.value, place), self._value(node.slice, place)
            if isinstance(owner, dict) or (isinstance(owner, (list, tuple)) and type(key) is int):
                try:
                    return owner[key]
                except LookupError:
                    raise _TooMuchError from None
        raise _TooMuchError

    def _call(self, node: ast.Call, place: str) -> Any:
        """``dict(a=1, **b)``, ``dict(a)``, ``list(a)`` and ``tuple(a)``; no other call."""
        if not isinstance(node.func, ast.Name):
            raise _TooMuchError
        name, arguments = node.func.id, node.args
        if name in _DICTS and len(arguments) <= 1:
            result: dict[Any, Any] = {}
            if arguments:
                first = self._value(arguments[0], place)
                if not isinstance(first, dict):
                    raise _TooMuchError
                result.update(first)
            keywords = [(k.arg and ast.Constant(k.arg), k.value) for k in node.keywords]
            return {**result, **self._dictionary(keywords, place)}
        if name in ("list", "tuple") and len(arguments) == 1 and not node.keywords:
            items = self._value(arguments[0], place)
            if isinstance(items, (list, tuple)):
                return list(items) if name == "list" else tuple(items)
        raise _TooMuchError

    def _dictionary(self, pairs: Any, place: str) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, node in pairs:
            if key_node is None:  # **other
                other = self._value(node, place)
                if isinstance(other, dict):
                    result.update(other)
                continue
            key = self._value(key_node, place)
            if not isinstance(key, (str, int, float, type(None))):
                continue
            result[key] = self._value(node, f"{place}.{key}")
        return result

    def _binary(self, op: ast.operator, left: Any, right: Any, before: int) -> Any:
        if _number(left) and _number(right):
            function = _ARITHMETIC.get(type(op))
            if function is None:
                raise _TooMuchError
            result = function(left, right)
            if isinstance(result, complex) or not abs(result) <= MAX_NUMBER:
                raise _TooMuchError
            return result
        text_or_items = type(left) in (str, list, tuple) and type(left) is type(right)
        if isinstance(op, ast.Add) and text_or_items:
            if len(left) + len(right) > MAX_ITEMS:
                raise _TooMuchError
            self._work.spend((len(left) + len(right)) // 50)
            return left + right
        if isinstance(op, ast.Mult):
            times, items = (left, right) if type(left) is int else (right, left)
            if type(times) is int and isinstance(items, (str, list, tuple)):
                if times * len(items) > MAX_ITEMS:
                    raise _TooMuchError
                # A name repeated counts as often as it stands there.
                self._work.spend((before - self._work.left) * max(0, times))
                return items * times
        raise _TooMuchError


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _unary(op: ast.unaryop, value: Any) -> Any:
    if isinstance(op, ast.Not) and isinstance(value, bool):
        return not value
    if not _number(value):
        raise _TooMuchError
    if isinstance(op, ast.USub):
        return -value
    if isinstance(op, ast.UAdd):
        return value
    raise _TooMuchError


def _power(base: float, exponent: float) -> float:
    if base and abs(exponent) * abs(math.log10(abs(base))) > 300:
        raise _TooMuchError
    return base**exponent


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}


def _with_item(value: Any, keys: list[Any], item: Any) -> Any:
    """``value`` with an item set below ``keys``, copied along the way; None where there is none."""
    if not keys:
        return item
    if isinstance(value, dict):
        inner = value.get(keys[0], {}) if len(keys) > 1 else None
        changed = _with_item(inner, keys[1:], item)
        return None if len(keys) > 1 and changed is None else {**value, keys[0]: changed}
    if isinstance(value, list) and type(keys[0]) is int and 0 <= keys[0] < len(value):
        changed = _with_item(value[keys[0]], keys[1:], item)
        if len(keys) > 1 and changed is None:
            return None
        return [*value[: keys[0]], changed, *value[keys[0] + 1 :]]
    return None


def _merge(base: dict[Any, Any], child: dict[Any, Any], depth: int = 0) -> dict[Any, Any]:
    """As mmcv merges a config into its base: dictionaries by key, everything else replaced."""
    merged = dict(base)
    for key, value in child.items():
        before = merged.get(key)
        if not isinstance(value, dict) or depth > MAX_DEPTH:
            merged[key] = value
        elif value.get(_DELETE) or not isinstance(before, dict):
            merged[key] = _merge({}, {k: v for k, v in value.items() if k != _DELETE}, depth + 1)
        else:
            merged[key] = _merge(before, value, depth + 1)
    return merged
