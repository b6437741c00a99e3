"""Messages for checkpoints that do not match a model: what differs, and the likely cause."""

from collections.abc import Mapping

import torch
import yaml
from torch import nn

from hrnet_d2.text import YAML_ERRORS, printable

from .loading import Checkpoint
from .recognition import Description, describe
from .values import LARGEST, Findings

__all__ = ["Blocking", "explain", "explain_kinds", "explain_values"]

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
    notes = [*checkpoint.notes, *_config_notes(checkpoint.config)]
    lines += [f"About the file: {note}." for note in notes]
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


def _config_notes(text: str | None) -> list[str]:
    """What is odd about the config in a file, from which its model may have been built."""
    if text is None:
        return []
    try:
        values = yaml.safe_load(text)
    except YAML_ERRORS:
        return ["its config is not YAML"]
    if not isinstance(values, Mapping):
        return [f"its config is of type {type(values).__name__}, not a mapping of keys to values"]
    if isinstance(values.get("MODEL"), Mapping):
        return []
    keys = ", ".join(printable(str(key)) for key in list(values)[:5])
    return [f"its config has no MODEL section; it has: {keys or 'nothing'}"]


def explain_kinds(
    path: str, unsuitable: Mapping[str, str], target: Mapping[str, torch.Tensor]
) -> str:
    """The message for tensors that are not dense or of another kind of number.

    Args:
        path: path of the file.
        unsuitable: our names of the tensors mapped to what they are.
        target: the model's tensors.
    """
    items = [
        f"{name}: {problem}; the model needs dense {str(target[name].dtype)[6:]} values"
        for name, problem in unsuitable.items()
    ]
    return "\n".join(
        [
            f"{path} cannot be used; nothing was loaded",
            *_listed("not what the model needs", items),
            "Save the plain weights: dense, not quantized, of floating point.",
        ]
    )


def explain_values(findings: Findings, total: int) -> list[str]:
    """Lines on values that no model can work with; empty if there are none.

    Args:
        findings: of the tensors.
        total: number of the weights that could be among ``findings.zero``.
    """
    broken, huge, zero = findings.non_finite, findings.huge, findings.zero
    lines = _listed(f"values that are NaN or infinite in {len(broken)} tensors", broken)
    lines += _listed(f"values beyond {LARGEST:.0e} in {len(huge)} tensors", huge)
    if broken or huge:
        lines.append(
            "The training that wrote the file diverged, or the file is damaged: use an earlier "
            "checkpoint, or download it again."
        )
    if zero and 2 * len(zero) >= total:
        lines += _listed(f"weights that are all 0 in {len(zero)} of {total} tensors", zero)
        lines.append(
            "No training gives these: the file was written before the weights were filled in, or "
            "it is damaged."
        )
    return lines
