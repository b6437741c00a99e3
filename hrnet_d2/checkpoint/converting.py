"""Convert a checkpoint of any kind to this package's format, accounting for every tensor."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from hrnet_d2.file_io import atomic_write

from .download import fetch
from .errors import CheckpointError
from .formats import CLASS_NAMES
from .loading import Checkpoint, load_file
from .matching import match_to_model

__all__ = ["Conversion", "convert"]


@dataclass
class Conversion:
    """The result of a conversion.

    Attributes:
        checkpoint: the checkpoint that was read.
        rows: (name in the file, our name or "-", shape, what became of it) for every tensor.
        problems: what is wrong; empty if every tensor is accounted for.
    """

    checkpoint: Checkpoint
    rows: list[tuple[str, str, str, str]]
    problems: list[str]


def convert(source: str, target: str | None, model: nn.Module | None = None) -> Conversion:
    """Read a checkpoint, account for every tensor and, if that succeeds, write it in our format.

    Args:
        source: a file or URL of any supported format.
        target: a ".pth" or ".safetensors" file to write; None to only check.
        model: a model that the checkpoint must match; without one, only names are checked.

    Returns:
        The account. If it lists problems, nothing was written.

    Raises:
        UnsafeCheckpointError: if the source refers to code.
        CheckpointError: if the source cannot be read or the target's suffix is unknown.
    """
    if target is not None and Path(target).suffix not in (".pth", ".safetensors"):
        raise CheckpointError(f"{target} must end in .pth or .safetensors")
    local = fetch(source)
    if target is not None and os.path.exists(target) and os.path.samefile(local, target):
        raise CheckpointError(f"{target} is the source itself")
    checkpoint = load_file(local)
    problems = []
    if checkpoint.unknown:
        first = ", ".join(checkpoint.unknown[:4])
        problems.append(f"{len(checkpoint.unknown)} names are in no table: {first}, ...")
    if model is not None:
        try:
            match_to_model(checkpoint, model)
        except CheckpointError as error:
            problems.append(str(error))
    if target is not None and not problems:
        _write(checkpoint, target)
    return Conversion(checkpoint, _rows(checkpoint), problems)


def _rows(checkpoint: Checkpoint) -> list[tuple[str, str, str, str]]:
    unknown = set(checkpoint.unknown)
    rows = []
    for theirs, ours in checkpoint.names.items():
        shape = "x".join(map(str, checkpoint.state[ours].shape)) or "scalar"
        if theirs in unknown:
            rows.append((theirs, "-", shape, "UNKNOWN"))
        else:
            rows.append((theirs, ours, shape, "kept" if theirs == ours else "renamed"))
    rows += [(theirs, "-", "", f"unused: {why}") for theirs, why in checkpoint.unused.items()]
    return rows


def _write(checkpoint: Checkpoint, target: str) -> None:
    # A view of a larger tensor would take all of that tensor into the file.
    state = {name: value.contiguous().clone() for name, value in checkpoint.state.items()}
    names = checkpoint.class_names
    with atomic_write(target) as part:
        if target.endswith(".safetensors"):
            text = {} if names is None else {CLASS_NAMES: "\n".join(names)}
            save_file(state, part, metadata={"format": "pt", **text})
        else:
            content: dict[str, Any] = {"model": state, "__author__": "hrnet_d2"}
            if names is not None:
                content[CLASS_NAMES] = names
            torch.save(content, part)
