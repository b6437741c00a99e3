"""Decide whether a checkpoint matches a model before any tensor is copied."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .errors import CheckpointError
from .loading import Checkpoint
from .mismatch import Blocking, explain, explain_kinds, explain_values
from .values import examine, negative_variances, suitable, weights

__all__ = [
    "MatchResult",
    "check_values",
    "find_backbone",
    "layers",
    "match_saved",
    "match_to_model",
    "share_names",
]

_BACKBONE = "backbone.bottom_up."
# A tensor that identifies a backbone: of HRNet, and of a Detectron2 ResNet.
_BACKBONE_MARKS = ("transition1.0.0.weight", "res2.0.conv1.weight")
# May be in only one of the two: counters that nothing reads, and values that the config sets.
_OPTIONAL = ("num_batches_tracked", "pixel_mean", "pixel_std")
_OBSOLETE = ("anchor_generator.cell_anchors",)
# What a part of a detector is called in the whole: a neck with its backbone, or the backbone.
_LONE_PREFIX = {"bottom_up.": "backbone.", "": _BACKBONE}


@dataclass
class MatchResult:
    """How a checkpoint matches a model, by the model's names.

    Attributes:
        state: the tensors to copy.
        missing: the model's tensors that are missing from the file.
        unexpected: the file's tensors that the model does not have.
        wrong_shape: names mapped to the shapes in the file and in the model.
        unused: the file's tensors that this model does not need, mapped to the reason.
        zero: weights to copy that are all 0, which training does not give.
    """

    state: dict[str, torch.Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)


def match_to_model(checkpoint: Checkpoint, model: nn.Module, partial: bool = False) -> MatchResult:
    """Pair the tensors of a checkpoint with a model's.

    A detector's checkpoint must fill the model. A backbone's must fill the model's backbone, and
    the rest keeps its initial values. With ``partial``, every layer outside the backbone whose
    tensors are missing or have another shape keeps its initial values.

    Args:
        checkpoint: a checkpoint under our names.
        model: a detector, or a backbone alone.
        partial: allow layers outside the backbone to differ.

    Returns:
        The tensors to copy, and the differences that were allowed.

    Raises:
        CheckpointError: if it does not match, or has values that cannot be copied; the message
            lists tensors and the likely cause.
    """
    target = model.state_dict()
    backbone = find_backbone(target)
    source, unused = _moved(checkpoint, target, backbone)
    result = MatchResult(unused=unused)
    for name, value in source.items():
        if name not in target:
            if _optional(name):
                result.unused[name] = "not needed"
            else:
                result.unexpected.append(name)
        elif value.shape == target[name].shape:
            result.state[name] = value
        elif value.numel() == target[name].numel() == 1:  # a scalar may have a dimension or none
            result.state[name] = value.reshape(target[name].shape)
        else:
            result.wrong_shape[name] = (tuple(value.shape), tuple(target[name].shape))
    known = result.state.keys() | result.wrong_shape.keys()
    absent = [name for name in target if name not in known and not _optional(name)]
    result.missing = _without_aliases(model, absent, known)

    blocking = _blocking(result, checkpoint, backbone, partial)
    if any(blocking):
        raise CheckpointError(explain(checkpoint, model, blocking, partial))
    if partial:
        _leave_out_broken_layers(result, backbone)
    if not result.state:
        raise CheckpointError(f"{checkpoint.path} has no tensor for this {type(model).__name__}")
    check_values(result, checkpoint, target)
    return result


def match_saved(checkpoint: Checkpoint, model: nn.Module) -> MatchResult | None:
    """Pair the tensors of a run's own checkpoint with the model of the run.

    They have the same names, whatever project these are of: nothing is renamed or left out.

    Args:
        checkpoint: of a file that the run saved.
        model: any network.

    Returns:
        The tensors to copy; None if the names or shapes are not those of the model.

    Raises:
        CheckpointError: if there are values that cannot be copied.
    """
    target = model.state_dict()
    shapes = {name: value.shape for name, value in target.items()}
    if {name: value.shape for name, value in checkpoint.saved.items()} != shapes:
        return None
    result = MatchResult(dict(checkpoint.saved))
    check_values(result, checkpoint, target)
    return result


def check_values(
    result: MatchResult, checkpoint: Checkpoint, target: Mapping[str, torch.Tensor]
) -> None:
    """Check layout, kind and values of the tensors to copy; convert those of a wider dtype.

    Single weights that are all 0 are allowed, and listed in ``result.zero``.

    Raises:
        CheckpointError: if a tensor is not dense, is of another kind of number, or has values that
            are not finite in the model's dtype or absurdly large, if a variance is negative, or if
            most weights are all 0.
    """
    unsuitable = {}
    for name, value in result.state.items():
        converted, problem = suitable(value, target[name])
        if converted is None:
            unsuitable[name] = problem
        else:
            result.state[name] = converted
    if unsuitable:
        raise CheckpointError(explain_kinds(checkpoint.path, unsuitable, target))
    findings = examine(result.state)
    problems = explain_values(findings, len(weights(result.state)))
    if problems:
        raise CheckpointError(
            "\n".join([f"{checkpoint.path} cannot be used; nothing was loaded", *problems])
        )
    result.zero = findings.zero
    if negative := negative_variances(result.state):
        raise CheckpointError(
            f"{checkpoint.path} cannot be used; nothing was loaded. {len(negative)} variances of "
            f"batch normalization have negative values ({', '.join(negative[:4])}"
            f"{', ...' * (len(negative) > 4)}), so its outputs would be NaN: the file is damaged "
            "or was edited wrongly"
        )


def find_backbone(names: Iterable[str]) -> str | None:
    """The prefix of the model's backbone ("backbone.bottom_up.", "backbone.", ""), or None."""
    for name in names:
        for mark in _BACKBONE_MARKS:
            if name == mark or name.endswith("." + mark):
                return name.removesuffix(mark)
    return None


def share_names(checkpoint: Checkpoint, target: Mapping[str, torch.Tensor]) -> bool:
    """Whether any tensor of a checkpoint has the name of one of the model's."""
    source, _ = _moved(checkpoint, target, find_backbone(target))
    return any(name in target for name in source if not _optional(name))


def _moved(
    checkpoint: Checkpoint, target: Mapping, backbone: str | None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Adjust names to a model that is part of a detector or has its backbone elsewhere.

    Returns:
        The tensors under the model's names, and those that belong to other parts.
    """
    state = checkpoint.state
    if checkpoint.backbone_only and backbone is not None:
        return {backbone + name.removeprefix(_BACKBONE): value for name, value in state.items()}, {}
    if any(name.startswith(_BACKBONE) for name in state):
        if backbone == "backbone.":  # the backbone has no neck around it
            return {
                backbone + n.removeprefix(_BACKBONE) if n.startswith(_BACKBONE) else n: v
                for n, v in state.items()
            }, {}
        lone = None if backbone is None else _LONE_PREFIX.get(backbone)
        if lone is not None and not any(name.startswith("backbone.") for name in target):
            inside = {n.removeprefix(lone): v for n, v in state.items() if n.startswith(lone)}
            why = "the model is a backbone alone"
            return inside, {name: why for name in state if not name.startswith(lone)}
    return dict(state), {}


def _optional(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in _OPTIONAL or any(part in name for part in _OBSOLETE)


def _without_aliases(model: nn.Module, absent: list[str], known: Iterable[str]) -> list[str]:
    """Leave out the names in ``absent`` whose tensor has another name in ``known``."""
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    filled = {id(tensors[name]) for name in known if name in tensors}
    return [name for name in absent if id(tensors.get(name)) not in filled]


def _blocking(
    result: MatchResult, checkpoint: Checkpoint, backbone: str | None, partial: bool
) -> Blocking:
    """The differences that are not allowed: missing, unexpected, and of another shape."""
    if not (partial or (checkpoint.backbone_only and backbone is not None)):
        return result.missing, result.unexpected, result.wrong_shape
    if backbone is None:
        return [], [], {}
    missing = [name for name in result.missing if name.startswith(backbone)]
    unexpected = result.unexpected if checkpoint.backbone_only else []
    shapes = {n: s for n, s in result.wrong_shape.items() if n.startswith(backbone)}
    return missing, unexpected, shapes


def _leave_out_broken_layers(result: MatchResult, backbone: str | None) -> None:
    """Drop the weight of a layer whose bias does not match, and the reverse."""
    broken = {_layer(name) for name in (*result.wrong_shape, *result.missing)}
    for name in [name for name in result.state if _layer(name) in broken]:
        del result.state[name]
        result.missing.append(name)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def layers(names: Iterable[str]) -> list[str]:
    """The layers that tensors belong to, each once, in order."""
    return list(dict.fromkeys(_layer(name) for name in names))
