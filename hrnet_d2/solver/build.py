"""Rules for the optimizer that Detectron2 does not have, as keys that any config may use.

``SOLVER.CONV_BIAS_LR_FACTOR``, ``SOLVER.CONV_BIAS_WEIGHT_DECAY``: learning rate and weight decay of
the biases of convolutions and linear layers, but not of normalization layers.
``SOLVER.CLIP_GRADIENTS.FULL_MODEL``: clips the norm of the whole gradient, while Detectron2's
``CLIP_TYPE: "norm"`` clips that of each parameter separately.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import (
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)
from torch import nn
from torch.nn.modules.conv import _ConvNd

from hrnet_d2.config_file import ConfigError

from .fused import prepare_fused
from .layer_decay import layer_factors

__all__ = ["build_optimizer", "clip_full_model_gradient", "get_optimizer_params"]

CLIP_TYPES = ("value", "norm", "full_model")  # the last: earlier configs for FULL_MODEL


def get_optimizer_params(
    model: nn.Module,
    base_lr: float,
    *,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float = 1.0,
    weight_decay_bias: float | None = None,
    conv_bias_lr_factor: float = 1.0,
    conv_bias_weight_decay: float | None = None,
    layer_factor: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups, one for each pair of learning rate and weight decay.

    Detectron2's ``get_default_optimizer_params`` with more arguments, the last three. Follows
    MMDetection's ``paramwise_cfg=dict(bias_lr_mult=..., bias_decay_mult=...)`` of the 2.x releases.

    Args:
        model: parameters that need no gradient are left out.
        base_lr: learning rate of parameters that no factor applies to.
        weight_decay: None is the optimizer's own; the same holds for the other decays.
        weight_decay_norm: of normalization layers.
        bias_lr_factor, weight_decay_bias: of every parameter called bias, in any layer.
        conv_bias_lr_factor: of biases of convolutions and linear layers; 1 turns it off.
        conv_bias_weight_decay: of the same biases.
        layer_factor: from the name of a parameter to a factor on its learning rate.

    Returns:
        What ``torch.optim`` optimizers take.
    """
    groups = get_default_optimizer_params(
        model,
        base_lr=base_lr,
        weight_decay=weight_decay,
        weight_decay_norm=weight_decay_norm,
        bias_lr_factor=bias_lr_factor,
        weight_decay_bias=weight_decay_bias,
        lr_factor_func=layer_factor,
    )
    override: dict[str, float] = {}
    if conv_bias_weight_decay is not None:
        override["weight_decay"] = conv_bias_weight_decay
    biases = []
    for name, module in model.named_modules():
        if not isinstance(module, (_ConvNd, nn.Linear)) or module.bias is None:
            continue
        if not module.bias.requires_grad:
            continue
        if conv_bias_lr_factor != 1.0:
            factor = 1.0 if layer_factor is None else layer_factor(f"{name}.bias")
            override = {**override, "lr": base_lr * conv_bias_lr_factor * factor}
        biases.append({"params": [module.bias], **override})
    if not override or not biases:
        return groups
    # If a parameter is listed twice, the later values apply.
    return reduce_param_groups([*groups, *biases])


def clip_full_model_gradient(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0
) -> torch.optim.Optimizer:
    """Make ``optimizer`` clip the norm of the gradient of all its parameters before each step.

    With a ``GradScaler`` the gradients are unscaled by then, unless the optimizer is fused and
    unscales within its step, which is an error.

    Args:
        optimizer: changed in place.
        max_norm: largest norm of the gradient.
        norm_type: 2 is the Euclidean norm; see ``torch.nn.utils.clip_grad_norm_``.

    Returns:
        The same optimizer.

    Raises:
        ValueError: if ``max_norm`` is not positive.
        RuntimeError: at a step, if the optimizer is fused and the gradients are scaled.
    """
    if not max_norm > 0:
        raise ValueError(f"the largest norm of the gradient must be positive, got {max_norm}")

    def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise RuntimeError(
                "a fused optimizer would clip gradients that are still scaled: build it with "
                "fused=False"
            )
        groups: Sequence[dict[str, Any]] = optimizer.param_groups
        parameters = itertools.chain.from_iterable(group["params"] for group in groups)
        nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def on_cpu(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether all parameters of the groups are on a CPU, where a fused step is the fastest."""
    return all(p.device.type == "cpu" for group in groups for p in group["params"])


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW from ``cfg.SOLVER``, by Detectron2's keys and this package's.

    Args:
        cfg: with ``hrnet_d2.add_hrnet_config`` applied.
        model: to optimize.

    Raises:
        ConfigError: if ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` is unknown, or ``SOLVER.FUSED`` would
            clip scaled gradients.
    """
    solver = cfg.SOLVER
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE not in CLIP_TYPES:
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be one of {CLIP_TYPES}, got {clip.CLIP_TYPE!r}"
        )
    scaled = solver.AMP.ENABLED and solver.AMP.DTYPE == "float16"
    if solver.FUSED and clip.ENABLED and scaled:
        raise ConfigError(
            "SOLVER.FUSED True would clip gradients that are still scaled for float16: set it to "
            "False, or SOLVER.AMP.DTYPE to bfloat16"
        )
    decay = solver.CONV_BIAS_WEIGHT_DECAY
    groups = get_optimizer_params(
        model,
        solver.BASE_LR,
        # Set for every parameter, so that those with equal settings share a group.
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        conv_bias_lr_factor=solver.CONV_BIAS_LR_FACTOR,
        conv_bias_weight_decay=decay if decay >= 0 else None,
        layer_factor=layer_factors(model, solver.LAYER_DECAY) if solver.LAYER_DECAY < 1 else None,
    )
    fused = solver.FUSED
    if fused is None:  # clipping must see the gradients of another program's scaler unscaled
        fused = not clip.ENABLED and on_cpu(groups)
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    own: dict[str, Any] = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    if solver.OPTIMIZER == "AdamW":
        kind, own = torch.optim.AdamW, {"betas": tuple(solver.BETAS)}
    optimizer = kind(
        groups,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        **own,
        # Else, as Detectron2 does, a few kernels for all parameters.
        foreach=not fused,
        fused=fused,
    )
    prepare_fused(optimizer)
    for i, group in enumerate(optimizer.param_groups):
        logging.getLogger(__name__).info(
            "optimizer group %d: %d parameters, rate %g, decay %g",
            *(i, len(group["params"]), group["lr"], group["weight_decay"]),
            extra={"file_only": True},  # see hrnet_d2.engine.console
        )
    whole = clip.CLIP_TYPE == "full_model" or (clip.CLIP_TYPE == "norm" and clip.FULL_MODEL)
    if clip.ENABLED and whole:
        return clip_full_model_gradient(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
    return maybe_add_gradient_clipping(cfg, optimizer)
