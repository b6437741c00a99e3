"""Reading a config: safely, with errors that name the file, the key and what to do.

Detectron2 reads YAML with ``yaml.unsafe_load`` by default, so that a config file can run code.
Here its safe door is the only one, for a file and for every file that ``_BASE_`` names.
"""

import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY

from .config import DEFAULTS
from .text import YAML_ERRORS, message_of

__all__ = [
    "ConfigError",
    "check_pairs",
    "flat_keys",
    "lookup",
    "merge_file",
    "merge_options",
    "with_weights",
]


LONGEST = 1000  # characters of another library's error in a message
# What yacs raises for values that it cannot merge, which it reads as Python's literals.
UNMERGEABLE = (AssertionError, KeyError, TypeError, ValueError, MemoryError, RecursionError)


class ConfigError(ValueError):
    """A config cannot be used: which file or key, what is wrong, what to do."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message_of(message))


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file into ``cfg``, in place.

    Args:
        cfg: a config with all keys that the file may set.
        path: of the file; it may name others as ``_BASE_``.

    Raises:
        ConfigError: if the file, or one of its bases, cannot be read, is not YAML, is empty or no
            mapping, has a tag that would run code, a key that does not exist, or a value of another
            type than the key's default.
    """
    values = _read(path)
    for key, value in _items(values):
        if value is None and isinstance(lookup(cfg, key), CfgNode):
            raise ConfigError(f"{path}: the section {key} is empty: write its keys, or delete it")
    _forget_types(cfg, flat_keys(values))
    # Detectron2 upgrades the files of its first version, whose keys have other names.
    if values.get("VERSION", cfg.VERSION) == cfg.VERSION:
        for key in flat_keys(values):
            _check_key(cfg, key, f"{path}: ")
    try:
        cfg.merge_from_file(path, allow_unsafe=False)
    except UNMERGEABLE as error:
        raise ConfigError(f"{path}: {_text(error)}") from error


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Merge ``KEY VALUE KEY VALUE ...``, as on the command line, into ``cfg``, in place.

    Raises:
        ConfigError: if a key has no value or does not exist, or a value has another type than the
            key's default.
    """
    options = list(options)
    check_pairs(options)
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key == BASE_KEY:
            raise ConfigError(f"{BASE_KEY} can be used in files only")
        _check_key(cfg, key)
        _forget_types(cfg, [key])
        if isinstance(_lookup(cfg, key), float) and re.fullmatch(r"[+-]?\d+", str(value).strip()):
            value = f"{str(value).strip()}.0"  # yacs takes no 1 for 1.0
        try:
            cfg.merge_from_list([key, value])
        except UNMERGEABLE as error:
            default = _lookup(cfg, key)
            kind = "a section of keys" if isinstance(default, CfgNode) else type(default).__name__
            raise ConfigError(
                f"{key} cannot be {value!r}: its value is {kind}, for example {default!r}"
                if not isinstance(default, CfgNode)
                else f"{key} is {kind}, set one of them: {', '.join(sorted(default))}"
            ) from error


def check_pairs(options: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: if ``options`` are not pairs of a key and a value.
    """
    if len(options) % 2:
        raise ConfigError(
            f"The options must be pairs of KEY VALUE, got {len(options)} words: "
            f"{' '.join(map(str, options))}"
        )


def with_weights(options: Sequence[str], weights: str | None) -> list[str]:
    """``KEY VALUE`` options, with ``MODEL.WEIGHTS`` from an argument of its own.

    Raises:
        ConfigError: if the options are not pairs, or set other weights.
    """
    check_pairs(options)
    if not weights:
        return list(options)
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key == "MODEL.WEIGHTS" and value != weights:
            raise ConfigError(
                f"The weights are {weights}, and the option MODEL.WEIGHTS is {value}: give one of "
                "them"
            )
    return [*options, "MODEL.WEIGHTS", weights]


def flat_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The full names of all values: ``MODEL.WEIGHTS``, ..."""
    for name, _ in _items(values, prefix):
        yield name


def _items(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _items(value, f"{name}.")
        else:
            yield name, value


class _Reader(CfgNode):
    """Detectron2's reader of a file and its bases; each file is checked when it is opened."""

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        try:
            with super()._open_cfg(filename) as file:
                text = file.read()
        except OSError as error:
            raise ConfigError(f"{filename}: cannot read this config: {_text(error)}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{filename} is not a text file in UTF-8: {error}") from error
        text = text.removeprefix("\ufeff")
        if filename.endswith(".py"):
            raise ConfigError(
                f"{filename} is Python: configs of this package are YAML files, and Detectron2's "
                "LazyConfig files are not supported"
            )
        _check_text(filename, text)
        return io.StringIO(text)


class _UniqueKeys(yaml.SafeLoader):
    """YAML forbids a key twice in one mapping; PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()  # "!!set [a]" has none
        for key, _ in pairs:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value} is there twice: merge the two",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        values: dict[Any, Any] = super().construct_mapping(node, deep)
        return values


def _check_text(filename: str, text: str) -> None:
    try:
        values = yaml.load(text, Loader=_UniqueKeys)
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(
            f"{filename}, line {line}: {_refused(error)}. Configs hold plain values only, and "
            "nothing in them is run: write the value itself"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{filename} is not valid YAML: {_text(error)}") from error
    except RecursionError:  # which a circle of files raises too
        raise
    except YAML_ERRORS as error:  # a month of 13, a number of 5000 digits, "!!bool x"
        raise ConfigError(
            f"{filename} has a value that cannot be read: {_text(error) or type(error).__name__}"
        ) from error
    if values is None:
        raise ConfigError(f"{filename} is empty: a config is a mapping of keys to values")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{filename} holds a {type(values).__name__}: a config is a mapping of keys to values, "
            "such as 'MODEL: {WEIGHTS: model.pth}'"
        )


def _refused(error: yaml.constructor.ConstructorError) -> str:
    """The tag that safe loading refuses, as it is written in files."""
    problem = str(error.problem)
    if "tag:yaml.org,2002:" in problem:
        tag = problem.split("tag:yaml.org,2002:")[1].split("'")[0]
        return f"the tag !!{tag} is refused"
    return problem


def _read(path: str) -> dict[str, Any]:
    from .checkpoint.pickle_limits import LimitError, check_nesting  # which needs this module

    try:
        values: dict[str, Any] = _Reader.load_yaml_with_base(path, allow_unsafe=False)
        check_nesting(values)  # by aliases a few lines can stand for millions of values
    except ConfigError as error:
        if str(error).startswith(path):
            raise
        raise ConfigError(f"{path}: of the files that its {BASE_KEY} names, {error}") from error
    except LimitError as error:
        raise ConfigError(f"{path} repeats or nests itself too often by YAML's aliases") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested too deeply, or the files that {BASE_KEY} names form a circle"
        ) from error
    except (AssertionError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: cannot merge the files of {BASE_KEY}: {_text(error)}"
        ) from error
    return values


def _check_key(cfg: CfgNode, key: str, where: str = "") -> None:
    """Refuse a key that the config does not have; name the nearest one."""
    node: Any = cfg
    if cfg.key_is_deprecated(key) or cfg.key_is_renamed(key):
        return
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            raise ConfigError(f"{where}there is no key {key}{_suggestion(cfg, key)}")
        node = node[part]


def _forget_types(cfg: CfgNode, keys: Iterable[str]) -> None:
    """Let keys whose default is None take a value of any type, whatever they have by now."""
    for key in keys:
        if key in DEFAULTS and DEFAULTS[key] is None:
            *parents, last = key.split(".")
            _lookup(cfg, ".".join(parents))[last] = None


def _suggestion(cfg: CfgNode, key: str) -> str:
    names = list(flat_keys(cfg))
    near = difflib.get_close_matches(key, names, n=2, cutoff=0.7)
    last = key.rsplit(".", 1)[-1]
    # The right name in the wrong section is as common as a misspelt one.
    near += [name for name in names if name.rsplit(".", 1)[-1] == last and name not in near][:2]
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def _lookup(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _text(error: BaseException) -> str:
    if isinstance(error, MemoryError | RecursionError):  # of Python's parser, at brackets and signs
        return "a value is nested too deeply to be read"
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def lookup(cfg: CfgNode, key: str, default: Any = None) -> Any:
    """The value of a dotted key; ``default`` if there is none."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            return default
        node = node[part]
    return node
