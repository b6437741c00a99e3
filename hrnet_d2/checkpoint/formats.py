"""Find the tensors in a file's content: wrappers and prefixes removed, class names kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hrnet_d2.text import printable

from .errors import CheckpointError
from .reading import RawCheckpoint
from .rebuilding import NotDense

__all__ = ["Contents", "unwrap"]

CLASS_NAMES = "class_names"
CONFIG = "config"  # the full config as YAML, in files of this package
# Of DataParallel and torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
_AVERAGE = "ema_"


@dataclass
class Contents:
    """The tensors of a checkpoint under the file's own names.

    Attributes:
        tensors: tensors by name, on the CPU.
        unused: names of tensors that are set aside, mapped to the reason.
        extras: everything else in a Detectron2 checkpoint (optimizer, iteration).
        saved: the tensors of a Detectron2 checkpoint with the prefixes that ``tensors`` lacks.
        class_names: names of the dataset's classes, if the file has them.
        version: the MMDetection version, if the file states it.
        meta: MMDetection's account of the training: its config, classes, version; else empty.
        config: the full config as YAML, in files of this package.
        wrapper: the key that holds the tensors; None if they are at the top level.
        notes: what the file has that cannot be used, such as class names that are not texts.
    """

    tensors: dict[str, torch.Tensor]
    unused: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    saved: dict[str, torch.Tensor] = field(default_factory=dict)
    class_names: list[str] | None = None
    version: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    wrapper: str | None = None
    notes: list[str] = field(default_factory=list)


def unwrap(raw: RawCheckpoint, path: str) -> Contents:
    """Find the tensors in the content of a file.

    MMDetection keeps them in "state_dict". If it trained with a moving average, the averaged
    weights are there under the plain names, and the "ema_" names (2.x) or "ema_state_dict" (3.x)
    hold the weights they were averaged from. Detectron2 keeps them in "model".

    Args:
        raw: content of the file.
        path: path of the file, for messages.

    Raises:
        CheckpointError: if there are no tensors, or something else is among them.
    """
    content = raw.content
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    wrapper = next(
        (
            key
            for key in ("model", "state_dict", "model_state", "blobs", "ema_state_dict")
            if isinstance(content.get(key), Mapping)
        ),
        None,
    )
    named = content if wrapper is None else content[wrapper]
    saved = tensors = _tensors(named, path, bare=wrapper is None)
    if wrapper == "ema_state_dict":
        tensors.pop("steps", None)
    for prefix in _PREFIXES:
        tensors = _strip(tensors, prefix)
    contents = Contents(dict(tensors), wrapper=wrapper)
    _set_averages_aside(contents)
    if not contents.tensors:
        keys = ", ".join(
            f"{printable(str(key))} ({type(value).__name__})"
            for key, value in list(content.items())[:5]
        )
        raise CheckpointError(f"{path} holds no tensors; it has: {keys or 'nothing'}")
    if wrapper == "model":
        contents.extras = {key: value for key, value in content.items() if key != "model"}
        contents.saved = saved
    else:
        contents.extras = _heuristics(contents, content, wrapper)
    _read_meta(contents, content, raw.text)
    if CLASS_NAMES in contents.extras:
        contents.extras[CLASS_NAMES] = contents.class_names
    return contents


def _tensors(named: Mapping, path: str, bare: bool) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in named.items():
        if isinstance(value, torch.Tensor):
            tensors[str(name)] = value.detach()
        elif not getattr(value, "of_numbers", True):
            if not bare:
                raise CheckpointError(
                    f"{path}: {name} is an array of objects or texts, not numbers"
                )
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            native = value.astype(value.dtype.newbyteorder("="), copy=False)
            # The array has the bytes of the pickle to itself, so a copy is rarely needed.
            writable = np.require(native.view(np.ndarray), requirements=["C", "A", "W"])
            tensors[str(name)] = torch.from_numpy(writable)
        elif isinstance(value, NotDense):
            raise CheckpointError(
                f"{path}: {name} is a {value.kind} tensor; nothing was loaded. Save the plain "
                "weights: dense and with values"
            )
        elif not bare and type(value) in (int, float):  # a scalar of NumPy
            tensors[str(name)] = torch.tensor(value)
        elif not bare:
            raise CheckpointError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    for name in tensors:
        if printable(name) != name:
            raise CheckpointError(
                f"{path} has a tensor with control characters in its name: {name}"
            )
    return tensors


def _strip(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    while tensors and all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _set_averages_aside(contents: Contents) -> None:
    """MMDetection evaluates plain names, not "ema_" ones; if all names have it, it is a prefix."""
    averages = [name for name in contents.tensors if name.startswith(_AVERAGE)]
    if len(averages) == len(contents.tensors):
        contents.tensors = _strip(contents.tensors, _AVERAGE)
        return
    for name in averages:
        contents.unused[name] = "second copy of the weights (moving average)"
        del contents.tensors[name]


def _heuristics(contents: Contents, content: Mapping, wrapper: str | None) -> dict[str, Any]:
    """Mark what Detectron2 matches by similar names: files of Caffe2 and of pycls."""
    arrays = all(isinstance(value, np.ndarray) for value in content.values())
    if wrapper == "blobs" or (wrapper is None and arrays):
        for name in [name for name in contents.tensors if name.endswith("_momentum")]:
            del contents.tensors[name]
        return {"__author__": "Caffe2", "matching_heuristics": True}
    if wrapper == "model_state":
        return {"__author__": "pycls", "matching_heuristics": True}
    return {}


def _read_meta(contents: Contents, content: Mapping, text: Mapping[str, str]) -> None:
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    candidates = (
        (CLASS_NAMES, content.get(CLASS_NAMES)),
        (CLASS_NAMES, text[CLASS_NAMES].split("\n") if CLASS_NAMES in text else None),
        ("meta.dataset_meta.classes", dataset.get("classes")),
        ("meta.dataset_meta.CLASSES", dataset.get("CLASSES")),
        ("meta.CLASSES", meta.get("CLASSES")),
    )
    for key, names in candidates:
        if isinstance(names, str):
            names = [names]
        if names is None:
            continue
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            contents.class_names = _printable_names(key, names, contents)
            break
        contents.notes.append(
            f"its class names ({key}) are {_shown(names)} and are not used: they must be a list of "
            "texts"
        )
    version = meta.get("mmdet_version")
    contents.version = version if isinstance(version, str) else None
    contents.meta = meta
    config = text.get(CONFIG, content.get(CONFIG))
    contents.config = config if isinstance(config, str) else None
    if config is not None and contents.config is None and contents.wrapper in ("model", None):
        contents.notes.append(
            f"its config is {_shown(config)} and is not used: this package saves YAML text"
        )


def _printable_names(key: str, names: Sequence[str], contents: Contents) -> list[str]:
    """The names without control characters, which a terminal would obey."""
    clean = [printable(name) for name in names]
    odd = [name for name, old in zip(clean, names, strict=True) if name != old]
    if odd:
        contents.notes.append(
            f"{len(odd)} of its class names ({key}) have control characters, which are written as "
            f"text: {', '.join(map(repr, odd[:4]))}"
        )
    return clean


def _shown(value: Any) -> str:
    """A value of a wrong type, for a message."""
    text = printable(repr(value) if isinstance(value, (int, float, str, list, tuple)) else "")
    text = text if len(text) <= 60 else f"{text[:56]} ..."
    return f"of type {type(value).__name__}" + (f" ({text})" if text else "")
