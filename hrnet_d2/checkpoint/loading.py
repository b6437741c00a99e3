"""A checkpoint file of any kind, as tensors under our names with an account of each."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from . import legacy
from .errors import CheckpointError
from .formats import Contents, unwrap
from .reading import read_file
from .recognition import Layout, recognize, recognize_backbone
from .renaming import rename, unused_reason

__all__ = ["Checkpoint", "account", "load_file"]

logger = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """The tensors of a file under our names, and what became of each of its names.

    Attributes:
        path: of the file.
        layout: whose names it had.
        state: our name to tensor, on the CPU.
        names: the file's name to ours, for every tensor in ``state``.
        unused: the file's name to the reason why the tensor is of no use.
        unknown: the file's names that no table has; their tensors are in ``state`` as they are.
        extras: what else a checkpoint of Detectron2 holds: optimizer, iteration, ....
        class_names: of the dataset, where the file has them.
    """

    path: str
    layout: Layout
    state: dict[str, torch.Tensor]
    names: dict[str, str]
    unused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None

    @property
    def backbone_only(self) -> bool:
        """Whether it is a backbone without a detector: weights to begin a training from."""
        return all(name.startswith("backbone.bottom_up.") for name in self.state)


def load_file(path: str) -> Checkpoint:
    """Read a local checkpoint file of any supported format and layout.

    Raises:
        UnsafeCheckpointError: where it names code to run.
        CheckpointError: where it cannot be read or holds no tensors.
    """
    return account(unwrap(read_file(path), path), path)


def account(contents: Contents, path: str) -> Checkpoint:
    """Give the tensors of a checkpoint our names, each of them accounted for.

    Args:
        contents: of the file.
        path: of the file, for messages.

    Raises:
        CheckpointError: where two tensors get one name.
    """
    tensors = contents.tensors
    layout = recognize(tensors, contents.version)
    if layout is Layout.MMDET_V1:
        logger.warning(f"{path}: {legacy.WARNING}")
        tensors = legacy.upgrade(tensors)
    checkpoint = Checkpoint(
        path,
        layout,
        state={},
        names={},
        unused=dict(contents.unused),
        extras=contents.extras if layout is Layout.DETECTRON2 else {},
        class_names=contents.class_names,
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
