"""Builds a network from a config."""

import logging
import warnings
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model as _build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.utils.tracing import is_fx_tracing
from torch import nn

from hrnet_d2.devices import check_device

from . import mmdet1  # noqa: F401  registers its components
from .arithmetic import select_components
from .proposal_generator.rpn import MaxIoURPN

__all__ = ["build_model"]


def build_model(cfg: CfgNode) -> nn.Module:
    """Detectron2's ``build_model`` for ``cfg.MODEL.ARITHMETIC``; the RPN learns the padding.

    In Detectron2 a proposal generator is built from the shapes of the features alone. Which of
    its anchors lie within an image's padding depends on the backbone's ``size_divisibility``.

    Args:
        cfg: a full config with this package's keys.

    Returns:
        The network on ``cfg.MODEL.DEVICE``, with initial weights.

    Raises:
        ConfigError: if torch sees no such device.
        ValueError: if the arithmetic is unknown, or one of the components has no form in it.
    """
    check_device(cfg.MODEL.DEVICE)
    model: Any = _build_model(select_components(cfg))
    rpn = getattr(model, "proposal_generator", None)
    if isinstance(rpn, MaxIoURPN):
        rpn.size_divisibility = model.backbone.size_divisibility
    _make_first_calls(model)
    return model


def _make_first_calls(model: nn.Module) -> None:
    """Make the calls in Detectron2 that torch warns about once in a process, without the warnings.

    They ask for changes of Detectron2's code (``meshgrid`` of its anchors, ``is_fx_tracing`` of its
    poolers), so nobody who uses it can act on them. Nothing else is silenced.
    """
    log = logging.getLogger("torch.fx._symbolic_trace")
    log.addFilter(_is_not_about_tracing)
    try:
        is_fx_tracing()
    finally:
        log.removeFilter(_is_not_about_tracing)
    for generator in model.modules():
        if isinstance(generator, DefaultAnchorGenerator):
            levels = [cells.new_zeros(1, 1, 1, 1) for cells in generator.cell_anchors]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release")
                generator(levels)


def _is_not_about_tracing(record: logging.LogRecord) -> bool:
    return "is_fx_tracing will return true" not in record.getMessage()
