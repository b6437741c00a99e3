"""Layer-wise learning rates: the further a stage of the backbone is from the heads, the slower."""

import re
from collections.abc import Callable

from torch import nn

from hrnet_d2.config_file import ConfigError

__all__ = ["layer_factors"]

# Of HRNet and of Detectron2's ResNets, from the image on.
_DEPTHS = (
    (re.compile(r"backbone\.bottom_up\.(conv1|conv2|bn1|bn2|norm1|norm2|stem)\b"), 0),
    (re.compile(r"backbone\.bottom_up\.(layer1|stage1|res2)\b"), 1),
    (re.compile(r"backbone\.bottom_up\.(transition1|stage2|res3)\b"), 2),
    (re.compile(r"backbone\.bottom_up\.(transition2|stage3|res4)\b"), 3),
    (re.compile(r"backbone\.bottom_up\.(transition3|stage4|res5)\b"), 4),
)
_HEADS = 5


def layer_factors(model: nn.Module, decay: float) -> Callable[[str], float]:
    """Factors on the learning rate as in BEiT's ``layer_decay``: ``decay ** (5 - depth)``, with the
    stem at depth 0, the four stages at 1 to 4, and neck and heads at 5.

    Args:
        model: to optimize.
        decay: above 0, up to 1.

    Returns:
        From the name of a parameter to its factor.

    Raises:
        ConfigError: if no parameter of the model belongs to a backbone that is known.
    """
    if not any(_depth(name) < _HEADS for name, _ in model.named_parameters()):
        raise ConfigError(
            "SOLVER.LAYER_DECAY needs a backbone with stages (HRNet or ResNet below a neck); this "
            "model has none: set it to 1"
        )
    return lambda name: decay ** (_HEADS - _depth(name))


def _depth(name: str) -> int:
    return next((depth for pattern, depth in _DEPTHS if pattern.match(name)), _HEADS)
