"""Convert a checkpoint of any kind to this package's format, accounting for every tensor."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrnet_d2.file_io import atomic_write

from .describing import stated_config
from .download import fetch
from .errors import CheckpointError
from .formats import CLASS_NAMES, CONFIG
from .loading import Checkpoint, load_file
from .matching import match_to_model
from .mismatch import explain_values
from .safetensors_file import write_safetensors
from .values import examine, weights

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


def convert(
    source: str,
    target: str | None,
    model: nn.Module | None = None,
    config: str | None = None,
) -> Conversion:
    """Read a checkpoint, account for every tensor and, if that succeeds, write it in our format.

    The file that is written brings its own settings, as the source does: class names, and a config
    of everything that the source states.

    Args:
        source: a file or URL of any supported format.
        target: a ".pth" or ".safetensors" file to write; None to only check.
        model: a model that the checkpoint must match; without one, only names are checked.
        config: a full config as YAML text to write, in place of what the source states.

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
    else:
        problems += explain_values(examine(checkpoint.state), len(weights(checkpoint.state)))
    if target is not None and not problems:
        _write(checkpoint, target, config)
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


def _write(checkpoint: Checkpoint, target: str, config: str | None) -> None:
    # A view of a larger tensor would take all of that tensor into the file.
    state = {name: value.contiguous().clone() for name, value in checkpoint.state.items()}
    names = checkpoint.settings.class_names
    if config is None:
        config = stated_config(checkpoint.settings)
    described: dict[str, Any] = {CONFIG: config, CLASS_NAMES: names}
    described = {key: value for key, value in described.items() if value is not None}
    need = sum(value.numel() * value.element_size() for value in state.values())
    with atomic_write(target, need) as part:
        if target.endswith(".safetensors"):
            if names is not None:
                described[CLASS_NAMES] = "\n".join(names)
            write_safetensors(state, part, described)
        else:
            torch.save({"model": state, "__author__": "hrnet_d2", **described}, part)
