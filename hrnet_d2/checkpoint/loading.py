"""Read a checkpoint file of any kind: tensors under our names, each one accounted for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from . import legacy
from .errors import CheckpointError
from .formats import Contents, unwrap
from .reading import read_file
from .recognition import Layout, recognize, recognize_backbone
from .renaming import rename, unused_reason
from .settings import Settings, is_1x_meta, read_settings

__all__ = ["Checkpoint", "account", "load_file"]


@dataclass
class Checkpoint:
    """The tensors of a file under our names, and what each of the file's names became.

    Attributes:
        path: path of the file.
        layout: the project whose names the file uses.
        state: tensors by our names, on the CPU.
        names: the file's names mapped to ours, for every tensor in ``state``.
        unused: the file's names of tensors that are not needed, mapped to the reason.
        unknown: the file's names that are in no table; ``state`` has their tensors unrenamed.
        extras: everything beside "model" in a file with the structure of Detectron2's: optimizer,
            iteration, ....
        saved: the tensors in "model" of such a file, under the names that they were saved with.
        class_names: names of the dataset's classes, if the file has them.
        meta: MMDetection's account of the training: its config, classes, version; else empty.
        config: the full config as YAML, in files of this package.
        notes: what the file has that cannot be used, such as class names that are not texts.
    """

    path: str
    layout: Layout
    state: dict[str, torch.Tensor]
    names: dict[str, str]
    unused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    saved: dict[str, torch.Tensor] = field(default_factory=dict)
    class_names: list[str] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def backbone_only(self) -> bool:
        """Whether the file holds a backbone without a detector, such as ImageNet weights."""
        return all(name.startswith("backbone.bottom_up.") for name in self.state)

    @property
    def settings(self) -> Settings:
        """What the file says of its model: input, classes, thresholds, arithmetic."""
        shapes = {name: tuple(value.shape) for name, value in self.state.items()}
        settings = read_settings(
            self.path,
            shapes,
            self.layout,
            self.meta,
            self.config,
            self.class_names,
            self.names,
        )
        settings.notes += self.notes
        return settings


def load_file(path: str, keep: bool = False) -> Checkpoint:
    """Read a local checkpoint file of any supported format and layout.

    Args:
        path: a local file.
        keep: keep the result for the next call for this file, which takes it if the file is
            unchanged; so that a file's settings are read first and its tensors are not read twice.

    Raises:
        UnsafeCheckpointError: if the file refers to code.
        CheckpointError: if it cannot be read or holds no tensors.
    """
    key = _identity(path)
    checkpoint = _kept.pop(key, None)
    _kept.clear()  # whatever else was read and not taken
    if checkpoint is None:
        checkpoint = account(unwrap(read_file(path), path), path)
    if keep and key is not None:
        _kept[key] = checkpoint
    return checkpoint


# At most one: the file that was read last for its settings.
_kept: dict[tuple[Any, ...] | None, Checkpoint] = {}


def _identity(path: str) -> tuple[Any, ...] | None:
    """The same for a file as long as it does not change."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (os.path.abspath(path), found.st_ino, found.st_size, found.st_mtime_ns)


def account(contents: Contents, path: str) -> Checkpoint:
    """Rename the tensors of a checkpoint and account for each of them.

    Args:
        contents: content of the file.
        path: path of the file, for messages.

    Raises:
        CheckpointError: if two tensors would get the same name.
    """
    tensors = contents.tensors
    layout = recognize(tensors, contents.version)
    if layout is Layout.MMDET_V1 and is_1x_meta(contents.meta, tensors) is False:
        layout = Layout.MMDET  # early 2.x, which still called itself 1.1
    if layout is Layout.MMDET_V1:
        tensors = legacy.upgrade(tensors)
    checkpoint = Checkpoint(
        path,
        layout,
        state={},
        names={},
        unused=dict(contents.unused),
        extras=contents.extras,
        saved=contents.saved,
        class_names=contents.class_names,
        meta=contents.meta,
        config=contents.config,
        notes=contents.notes,
    )
    ours = rename(tensors, layout, recognize_backbone(tensors, "backbone."))
    for name, value in tensors.items():
        if ours[name] is None:
            reason = unused_reason(name)
            if reason is not None:
                checkpoint.unused[name] = reason
                continue
            checkpoint.unknown.append(name)
        target = ours[name] or name
        if target in checkpoint.state:
            raise CheckpointError(f"{path} holds {target} twice, the second time as {name}")
        checkpoint.state[target] = value
        checkpoint.names[name] = target
    return checkpoint
