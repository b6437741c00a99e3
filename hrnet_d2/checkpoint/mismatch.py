"""Messages for checkpoints that do not match a model: what differs, and the likely cause."""

from collections.abc import Mapping

import torch
from torch import nn

from .loading import Checkpoint
from .recognition import Description, describe

__all__ = ["Blocking", "explain", "explain_values"]

Blocking = tuple[list[str], list[str], dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]
_LISTED = 4


def explain(checkpoint: Checkpoint, model: nn.Module, blocking: Blocking, partial: bool) -> str:
    """The message for a checkpoint whose tensors do not match the model's.

    Args:
        checkpoint: a checkpoint under our names.
        model: the model.
        blocking: names that are missing, names that are unexpected, and names mapped to the shapes
            in the file and in the model.
        partial: whether layers outside the backbone may differ.
    """
    missing, unexpected, wrong_shape = blocking
    lines = [
        f"{checkpoint.path} does not match the model; nothing was loaded. "
        f"Tensors of another shape: {len(wrong_shape)}, missing from the file: {len(missing)}, "
        f"unknown to the model: {len(unexpected)}"
    ]
    lines += _listed(
        "another shape",
        [
            f"{name}: {in_file} in the file, {own} in the model"
            for name, (in_file, own) in wrong_shape.items()
        ],
    )
    lines += _listed("missing", missing)
    lines += _listed("unknown", unexpected)
    theirs = describe({name: tuple(value.shape) for name, value in checkpoint.state.items()})
    ours = describe({name: tuple(value.shape) for name, value in model.state_dict().items()})
    lines.append(f"The file holds: {theirs}. The model is: {ours}.")
    lines.append(_reason(theirs, ours, partial))
    return "\n".join(lines)


def _listed(title: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = [f"    ... and {len(items) - _LISTED} more"] if len(items) > _LISTED else []
    return [f"  {title}:", *(f"    {item}" for item in items[:_LISTED]), *more]


def _reason(theirs: Description, ours: Description, partial: bool) -> str:
    """The likely cause and what to do about it."""
    reasons = []
    whole = None not in (theirs.family, ours.family) and "backbone" not in (
        theirs.family,
        ours.family,
    )
    if whole and theirs.family != ours.family:
        reasons.append(f"Another family: use a config of {theirs.family}, or another file.")
    if None not in (theirs.width, ours.width) and theirs.width != ours.width:
        reasons.append(
            f"Another width: the file needs MODEL.HRNETV2P.WIDTH {theirs.width}, "
            f"the model has {ours.width}."
        )
    elif None not in (theirs.backbone, ours.backbone) and theirs.backbone != ours.backbone:
        reasons.append(
            f"Another backbone: {theirs.backbone} in the file, {ours.backbone} in the model."
        )
    if None not in (theirs.classes, ours.classes) and theirs.classes != ours.classes:
        key = "MODEL.FCOS.NUM_CLASSES" if ours.family == "FCOS" else "MODEL.ROI_HEADS.NUM_CLASSES"
        reasons.append(
            f"Another number of classes: {theirs.classes} in the file, {ours.classes} in the "
            f"model. To run the file unchanged, set {key} {theirs.classes}."
        )
    # FCOS shares only the backbone with the two-stage families.
    alike = whole and (theirs.family == ours.family or "FCOS" not in (theirs.family, ours.family))
    if alike and not partial and theirs.backbone == ours.backbone:
        reasons.append(
            "To fine-tune from it, set MODEL.PARTIAL_LOAD True: layers that differ, such as those "
            "that depend on the number of classes, are then re-initialized."
        )
    return " ".join(reasons) or "The file is damaged or belongs to another model."


def explain_values(
    path: str, unsuitable: Mapping[str, str], broken: list[str], target: Mapping[str, torch.Tensor]
) -> str:
    """The message for tensors whose values cannot be copied.

    Args:
        path: path of the file.
        unsuitable: our names of the tensors mapped to what they are.
        broken: names of the tensors with values that are not finite.
        target: the model's tensors.
    """
    lines = [f"{path} cannot be used; nothing was loaded"]
    lines += _listed(
        "not what the model needs",
        [
            f"{name}: {problem}; the model needs dense {str(target[name].dtype)[6:]} values"
            for name, problem in unsuitable.items()
        ],
    )
    lines += _listed(f"values that are NaN or infinite in {len(broken)} tensors", broken)
    if broken:
        lines.append(
            "The training that wrote the file diverged, or the file is damaged: use an earlier "
            "checkpoint, or download it again."
        )
    else:
        lines.append("Save the plain weights: dense, not quantized, of floating point.")
    return "\n".join(lines)
