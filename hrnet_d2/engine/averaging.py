"""An exponential moving average of the weights during training, evaluated and saved in their place.

The average holds the parameters that learn and nothing else.  Where the averaged model is needed,
to evaluate or to save it, the two sets of tensors change places for that time: no further copy of
the model is made, and the buffers (running statistics of normalization layers, themselves averages)
are those of the model.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hrnet_d2.checkpoint import CheckpointError

__all__ = ["Averaging", "WeightAverage", "restore_weights"]

logger = logging.getLogger(__name__)


class WeightAverage:
    """The average of a model's weights: ``average = d * average + (1 - d) * weights``.

    With warm-up, d of update n (from 0) is at most (1 + n) / (10 + n), as in TensorFlow's
    ``ExponentialMovingAverage``: the average of a short run is not dominated by its first weights.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True):
        """
        Args:
            model: on its device; its parameters that need a gradient are averaged.
            decay: from 0 (the weights themselves) to below 1.
            warmup: let the decay grow from 0.1.
        """
        self.decay = decay
        self.warmup = warmup
        learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in learning]
        self._live = nn.ParameterList([parameter for _, parameter in learning])
        self._average = AveragedModel(self._live, multi_avg_fn=self._blend)
        self._average.requires_grad_(False)
        self._in_place = False

    @property
    def updates(self) -> int:
        """Number of updates so far. The count is kept on the CPU."""
        return int(self._average.n_averaged)

    def update(self) -> None:
        """Take the weights of the model into the average."""
        self._average.update_parameters(self._live)

    def _blend(self, average: Any, weights: Any, _: Any) -> None:
        count = self.updates
        decay = min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(average, weights, None)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the body the model has the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        self._in_place = not self._in_place
        for ours, theirs in zip(self._average.parameters(), self._live, strict=True):
            ours.data, theirs.data = theirs.data, ours.data

    def restart(self) -> None:
        """Begin with the weights that the model has now."""
        self._average.n_averaged.zero_()
        for ours, theirs in zip(self._average.parameters(), self._live, strict=True):
            ours.data.copy_(theirs.data)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and the weights of the model that are not the average, by name.

        A checkpoint has the average as its model.
        """
        weights = self._average.parameters() if self._in_place else self._live
        tensors = [weight.detach() for weight in weights]
        return {"updates": self.updates, "weights": dict(zip(self._names, tensors, strict=True))}

    def load_state_dict(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """
        Args:
            state: of :meth:`state_dict`.
            model: has the average, and gets the weights that are not.

        Raises:
            CheckpointError: if the weights are not those of the model.
        """
        self.restart()
        restore_weights(model, state)
        self._average.n_averaged.fill_(int(state["updates"]))


def restore_weights(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give ``model`` the weights of :meth:`WeightAverage.state_dict`, in place.

    Raises:
        CheckpointError: if they are not those of the model.
    """
    parameters = dict(model.named_parameters())
    weights = state.get("weights")
    if not isinstance(weights, Mapping) or type(state.get("updates")) is not int:
        raise CheckpointError(
            "The averaging state of the checkpoint cannot be used: resume from an earlier one"
        )
    for name, weight in weights.items():
        if name not in parameters or parameters[name].shape != weight.shape:
            raise CheckpointError(
                f"The checkpoint has weights beside their average that are not of this model: "
                f"{name} of shape {tuple(weight.shape)}"
            )
        if not weight.isfinite().all():
            raise CheckpointError(
                f"The checkpoint has values of {name} that are not finite: resume from an earlier "
                "checkpoint"
            )
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


class Averaging(HookBase):
    """Updates an average after each iteration; belongs before hooks that evaluate or save."""

    def __init__(self, average: WeightAverage):
        """
        Args:
            average: of the trainer's model.
        """
        self.average = average

    def after_step(self) -> None:
        """Update the average."""
        self.average.update()
