"""Detectron2's matching of similar names, and what it must achieve to count as a match."""

import logging

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from .errors import CheckpointError
from .loading import Checkpoint
from .matching import MatchResult, check_values, find_backbone, match_to_model, share_names

__all__ = ["match_similar_names"]

logger = logging.getLogger(__name__)

_BACKBONE = "backbone.bottom_up."
_FREE = ("num_batches_tracked", "pixel_mean", "pixel_std")
# Detectron2 compares every name with every other.
_MAX_NAMES = 20_000


def match_similar_names(
    checkpoint: Checkpoint, model: nn.Module, partial: bool, caffe2: bool
) -> MatchResult:
    """Pair the tensors of a checkpoint with a model's by the ends of their names.

    Names that are the model's own, or in this package's tables, count first: then the checkpoint
    must match as :func:`match_to_model` says. Otherwise Detectron2's matching must fill the model's
    whole backbone. (If the model has a backbone that this package does not know, most of the file
    must have found a place.)

    Args:
        checkpoint: a checkpoint under our names, as far as the tables have them.
        model: a detector, or a backbone alone.
        partial: allow layers outside the backbone to differ.
        caffe2: whether the names are Caffe2's.

    Raises:
        CheckpointError: if it does not match.
    """
    target = model.state_dict()
    try:
        return match_to_model(checkpoint, model, partial)
    except CheckpointError:
        if share_names(checkpoint, target):  # then its reason is the better one
            raise
    named = checkpoint.state
    if checkpoint.backbone_only:
        # Detectron2 compares the ends of names, so a backbone's names must not have our prefix.
        named = {name.removeprefix(_BACKBONE): value for name, value in named.items()}
    if len(named) > _MAX_NAMES:
        raise CheckpointError(f"{checkpoint.path} has {len(named):,} names, and none is known")
    try:
        aligned = align_and_update_state_dicts(target, named, c2_conversion=caffe2)
    except Exception as error:  # names that it cannot take apart, or one that matches two
        raise CheckpointError(
            f"{checkpoint.path} does not match the model; nothing was loaded. Its names are in no "
            f"table, and Detectron2's matching of similar names says: {error}"
        ) from error
    result = MatchResult(
        {
            name: value
            for name, value in aligned.items()
            if name in target and value.shape == target[name].shape
        }
    )
    result.unexpected = [name for name in aligned if name not in result.state]
    result.missing = [
        name
        for name in target.keys() - result.state.keys() - _filled_in(model)
        if not name.endswith(_FREE)
    ]
    result.missing.sort()
    backbone = find_backbone(target)
    needed = [name for name in result.missing if name.startswith(backbone or "")]
    if backbone is None and 2 * len(result.state) > len(named):
        needed = []  # not a backbone whose tensors are known here; most of the file found a place
    if needed or not result.state:
        raise CheckpointError(
            f"{checkpoint.path} does not match the model; nothing was loaded. Its names are in no "
            f"table, and Detectron2's matching of similar names fills {len(result.state)} of "
            f"{len(target)} tensors. Missing: {', '.join(needed[:4])}, .... "
            f"Names in the file: {', '.join(sorted(named)[:4])}, ..."
        )
    check_values(result, checkpoint, target)
    logger.info(f"{len(result.state)} tensors of {checkpoint.path} matched by similar names")
    return result


def _filled_in(model: nn.Module) -> set[str]:
    """Statistics that FrozenBatchNorm2d sets to 0 and 1 if a file, such as Caffe2's, has none."""
    return {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, FrozenBatchNorm2d)
        for part in ("running_mean", "running_var")
    }
