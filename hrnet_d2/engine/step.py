"""One iteration of training: a batch, in parts if asked for; its losses; the optimizer's step.

A batch whose losses are NaN, infinite or absurdly large ends the run with what is known about it,
or is skipped within the budget of ``SOLVER.MAX_NONFINITE``.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_d2.config_file import ConfigError

from .diverging import LARGEST_LOSS, DivergedError, weights_problem

__all__ = ["Step", "step_trainer"]

logger = logging.getLogger(__name__)

SHOWN = 8  # images of a batch that a message names


class Step(SimpleTrainer):
    """Detectron2's iteration, which can add up gradients and reads all losses in one copy.

    With several parts the batch of an iteration is divided into as many; each runs forward and
    backward on its own, its losses weighted by its share of the images.  The optimizer steps once,
    so iterations, schedules and the order of the images are those of the whole batch.
    """

    parts = 1
    max_nonfinite = 0
    skipped = 0
    _batch: Sequence[dict] = ()
    _last_finite: dict[str, float] = {}
    _last_finite_iter = -1

    def run_step(self) -> None:
        """
        Raises:
            DivergedError: if a loss is not finite, beyond the batches that may be skipped; in every
                process.
        """
        assert self.model.training, "the model was left in evaluation mode"
        start = time.perf_counter()
        self._batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        losses = self._run_parts(self._batch)
        self.after_backward()
        if self._write_metrics(losses, data_time):
            self._update()

    def _run_parts(self, batch: Sequence[dict]) -> dict[str, torch.Tensor]:
        if self.parts == 1:
            losses = self._forward(batch)
            self.optimizer.zero_grad()
            self._backward(sum(losses.values()))
            return losses
        total: dict[str, torch.Tensor] = {}
        self.optimizer.zero_grad()
        parts = divide(batch, self.parts)
        for number, part in enumerate(parts, 1):
            share = len(part) / len(batch)
            with self._without_exchange(number < len(parts)):
                losses = self._forward(part)
                self._backward(share * sum(losses.values()))
            for name, loss in losses.items():
                total[name] = total.get(name, 0) + share * loss.detach()
        return total

    def _without_exchange(self, wanted: bool) -> contextlib.AbstractContextManager:
        """Processes exchange gradients once for each step, not for each part."""
        if wanted and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _forward(self, batch: Sequence[dict]) -> dict[str, torch.Tensor]:
        losses = self.model(batch)
        return {"total_loss": losses} if isinstance(losses, torch.Tensor) else losses

    def _backward(self, loss: Any) -> None:
        loss.backward()

    def _update(self) -> None:
        self.optimizer.step()

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> bool:
        """Record the losses; whether the optimizer should step.

        The device is waited for only in iterations whose metrics are gathered, or in all if batches
        may be skipped.
        """
        iteration = self.iter if iter is None else iter
        gathered = (iteration + 1) % self.gather_metric_period == 0
        if not gathered and not self.max_nonfinite:
            return True
        stacked = torch.stack([loss.detach().float() for loss in loss_dict.values()])
        everywhere = (stacked.abs() <= LARGEST_LOSS).all().float()  # not so of NaN
        if comm.get_world_size() > 1:
            # Part of the copy below, so that all processes know without one more wait.
            dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
        *values, finite = torch.cat([stacked, everywhere[None]]).cpu().unbind()
        losses = dict(zip(loss_dict, values, strict=True))
        if not finite:
            self._on_nonfinite({name: float(loss) for name, loss in losses.items()}, iteration)
            return False
        self._last_finite = {name: float(loss) for name, loss in losses.items()}
        self._last_finite_iter = iteration
        if gathered:
            super()._write_metrics(losses, data_time, prefix, iteration)
        return True

    def _on_nonfinite(self, losses: dict[str, float], iteration: int) -> None:
        """Count a batch to skip, or raise; called in all processes at once."""
        own = None
        if not all(abs(value) <= LARGEST_LOSS for value in losses.values()):
            own = f"{_named(losses)} for the images {_images(self._batch)}"
        found = comm.all_gather((own, all(map(math.isfinite, losses.values()))))
        where = "; ".join(text for text, _ in found if text)
        finite = all(is_finite for _, is_finite in found)
        problem = weights_problem(self.model)
        self.skipped += 1
        if self.skipped <= self.max_nonfinite and not problem:
            logger.warning(
                "Iteration %d is skipped, since its losses are out of bounds: %s. Skipped so far: "
                "%d of SOLVER.MAX_NONFINITE %d",
                *(iteration, where, self.skipped, self.max_nonfinite),
            )
            get_event_storage().put_scalar("skipped_batches", self.skipped, smoothing_hint=False)
            return
        before = "no iteration before it was finite"
        if self._last_finite:
            before = (
                f"the last finite losses, of iteration {self._last_finite_iter}, were "
                f"{_named(self._last_finite)}"
            )
        raise DivergedError(
            f"Training has diverged at iteration {iteration}: {where}; {before}. The learning rate "
            f"is {self.optimizer.param_groups[0]['lr']:g}. {self._likely_cause(problem, finite)}. "
            "Nothing was saved of this iteration, and earlier checkpoints are intact"
        )

    def _likely_cause(self, problem: str, finite: bool) -> str:
        advice = "lower SOLVER.BASE_LR, or lengthen SOLVER.WARMUP_ITERS"
        last = sum(self._last_finite.values())
        if problem:
            return f"Likely cause: the weights grew out of bounds before ({problem}): {advice}"
        if last > 100:
            return f"Likely cause: the losses grew to {last:g} before: {advice}"
        if finite:  # a bad image or annotation gives NaN or infinity
            return f"Likely cause: the last step was too long: {advice}"
        if isinstance(self, AMPTrainer):
            return f"Likely cause: float16 overflowed: set SOLVER.AMP.DTYPE bfloat16, or {advice}"
        return (
            "Likely cause: these images or their annotations, since the losses and weights were in "
            f"bounds before. Look at them, or set SOLVER.MAX_NONFINITE to skip them; else {advice}"
        )

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = super().state_dict()
        if self.skipped:
            state["skipped_batches"] = self.skipped
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.skipped = int(state_dict.get("skipped_batches", 0))


class _ScaledStep(Step, AMPTrainer):
    """In float16, with Detectron2's gradient scaler."""

    def _forward(self, batch: Sequence[dict]) -> dict[str, torch.Tensor]:
        with torch.autocast("cuda", dtype=self.precision):
            return super()._forward(batch)

    def _backward(self, loss: Any) -> None:
        self.grad_scaler.scale(loss).backward()

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


def step_trainer(
    cfg: CfgNode,
    model: nn.Module,
    data_loader: Iterable[list[dict]],
    optimizer: torch.optim.Optimizer,
) -> Step:
    """The object that runs one iteration, in the precision of ``SOLVER.AMP``.

    Raises:
        ConfigError: if the precision is unknown, or needs a GPU.
    """
    amp = cfg.SOLVER.AMP
    if not amp.ENABLED:
        step = Step(model, data_loader, optimizer)
    elif amp.DTYPE == "float16":
        if cfg.MODEL.DEVICE == "cpu":
            raise ConfigError("float16 training needs a GPU; set SOLVER.AMP.DTYPE bfloat16")
        scaler = torch.amp.GradScaler("cuda")
        step = _ScaledStep(model, data_loader, optimizer, grad_scaler=scaler)
    elif amp.DTYPE == "bfloat16":
        _TrainingAutocast(torch.device(cfg.MODEL.DEVICE).type, torch.bfloat16).register(model)
        step = Step(model, data_loader, optimizer)
    else:
        raise ConfigError(f"SOLVER.AMP.DTYPE is 'float16' or 'bfloat16', not {amp.DTYPE!r}")
    step.parts = cfg.SOLVER.ACCUMULATE_STEPS
    step.max_nonfinite = cfg.SOLVER.MAX_NONFINITE
    return step


def divide(batch: Sequence[dict], parts: int) -> list[Sequence[dict]]:
    """A batch in so many parts of about equal size, in order; fewer if it has fewer images."""
    bounds = [len(batch) * i // parts for i in range(parts + 1)]
    return [batch[a:b] for a, b in zip(bounds, bounds[1:], strict=False) if a < b]


class _TrainingAutocast:
    """Runs the forward pass of a model under autocast while it trains; bf16 needs no scaler.

    Its methods are the model's hooks: unlike functions inside a function they can be pickled, and
    so can the model.
    """

    def __init__(self, device_type: str, dtype: torch.dtype):
        self.device_type = device_type
        self.dtype = dtype
        self.running: list[torch.autocast] = []

    def register(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(self.enter)
        model.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, _: Any) -> None:
        if module.training:
            self.running.append(torch.autocast(self.device_type, dtype=self.dtype))
            self.running[-1].__enter__()

    def leave(self, *_: Any) -> None:
        if self.running:
            self.running.pop().__exit__(None, None, None)


def _named(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in losses.items())


def _images(batch: Sequence[dict]) -> str:
    named = [f"{record.get('image_id')} ({record.get('file_name')})" for record in batch[:SHOWN]]
    more = f" and {len(batch) - SHOWN} more" if len(batch) > SHOWN else ""
    return ", ".join(named) + more
