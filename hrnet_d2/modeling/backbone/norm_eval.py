"""Batch normalization on running statistics in training: MMDetection's ``norm_eval``.

Neither of Detectron2's modes does this: "FrozenBN" freezes weight and bias as well, and "BN"
updates the statistics.

:class:`AutoNormEval` chooses for each layer, once: statistics that were loaded are held, others are
measured.  The choice outlives a checkpoint, since the statistics of a run that measures look loaded
when it resumes.  It adds no tensor to the ``state_dict``: it travels in the ``_metadata`` that
PyTorch saves with a module's version, and in checkpoints of this package's ``Checkpointer``.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["AutoNormEval", "keep_running_statistics", "measuring_layers", "set_measuring_layers"]

logger = logging.getLogger(__name__)

_KEY = "measuring_layers"


def keep_running_statistics(*modules: nn.Module) -> None:
    """Put every batch-normalization layer of ``modules`` into eval mode; its weights still learn.

    ``nn.Module.train`` undoes this, so a network calls it from its own ``train``.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()


class AutoNormEval:
    """Which layers of a network hold their running statistics in training, chosen by themselves.

    The network calls :meth:`choose` in its first training pass, when its weights are loaded
    whatever program runs it, and :meth:`apply` whenever it enters training mode.

    Attributes:
        measuring: names of the layers that measure their statistics; None before the choice.
    """

    def __init__(self) -> None:
        self.measuring: frozenset[str] | None = None
        self._loaded: frozenset[str] | None = None

    def choose(self, network: nn.Module) -> None:
        """Choose, log one line and apply it; a second call changes nothing.

        In an iteration after the first (of Detectron2's ``EventStorage``) with weights that were
        saved by a network that had chosen, the run is a resumed one and keeps that choice.
        """
        if self.measuring is not None:
            return
        # Layers of frozen stages are in eval mode already.
        layers = {name: layer for name, layer in _norms(network) if layer.training}
        if any(layer.get_buffer("running_mean").is_meta for layer in layers.values()):
            return
        resumed = has_event_storage() and get_event_storage().iter > 0
        if resumed and self._loaded is not None:
            self.measuring = self._loaded
        else:
            self.measuring = frozenset(_never_measured(layers))
        self.apply(network)
        if layers and comm.is_main_process():
            _log(len(layers), len(self.measuring & layers.keys()))

    def apply(self, network: nn.Module) -> None:
        """Put the layers that hold their statistics into eval mode."""
        if self.measuring is None:
            return
        for name, layer in network.named_modules():
            if isinstance(layer, _BatchNorm) and name not in self.measuring:
                layer.eval()

    def save(self, metadata: dict[str, Any]) -> None:
        """Add the choice to the metadata of the network's ``state_dict``."""
        if self.measuring is not None:
            metadata[_KEY] = sorted(self.measuring)

    def load(self, metadata: Mapping[str, Any]) -> None:
        """Note the choice of the network that a ``state_dict`` is from, if it has one."""
        names = metadata.get(_KEY)
        self._loaded = None if names is None else frozenset(names)


def measuring_layers(model: nn.Module) -> list[str] | None:
    """Names of the layers of ``model`` that were chosen to measure their statistics.

    Returns:
        Full names; None if no network of the model has chosen.
    """
    found = [(name, auto.measuring) for name, _, auto in _choosers(model)]
    if all(chosen is None for _, chosen in found):
        return None
    return sorted(_join(name, layer) for name, chosen in found for layer in chosen or ())


def set_measuring_layers(model: nn.Module, names: Collection[str]) -> None:
    """Resume with a choice of :func:`measuring_layers`: these layers measure, others hold."""
    for name, network, auto in _choosers(model):
        inside = {layer for layer, _ in _norms(network) if _join(name, layer) in names}
        auto.measuring = frozenset(inside)
        if network.training:
            network.train()


def _choosers(model: nn.Module) -> Iterator[tuple[str, nn.Module, AutoNormEval]]:
    for name, module in model.named_modules():
        auto = getattr(module, "auto_norm_eval", None)
        if isinstance(auto, AutoNormEval) and getattr(module, "norm_eval", None) == "auto":
            yield name, module, auto


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _norms(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Batch-normalization layers that have statistics."""
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            yield name, layer


def _never_measured(layers: Mapping[str, nn.Module]) -> Iterable[str]:
    """Names of the layers whose mean is 0 and whose variance is 1, as they are initialized."""
    if not layers:
        return []
    norms = layers.values()
    initial = [
        (norm.get_buffer("running_mean") == 0).all() & (norm.get_buffer("running_var") == 1).all()
        for norm in norms
    ]
    # One copy from the device for all layers.
    flags = torch.stack(initial).tolist()
    return [name for name, never in zip(layers, flags, strict=True) if never]


def _log(layers: int, measuring: int) -> None:
    if not measuring:
        logger.info(
            "NORM_EVAL auto: %d batch-normalization layers of HRNet keep the running statistics "
            "that were loaded",
            layers,
        )
    elif measuring == layers:
        logger.info(
            "NORM_EVAL auto: %d batch-normalization layers of HRNet measure their running "
            "statistics, as in training from scratch",
            layers,
        )
    else:
        logger.info(
            "NORM_EVAL auto: of %d batch-normalization layers of HRNet, %d keep the running "
            "statistics that were loaded and %d, which were not in the file, measure theirs",
            *(layers, layers - measuring, measuring),
        )
