"""A function of tensors replayed as one CUDA graph for each size of its inputs."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

from .dense import nested, structure_of, tensors_of

__all__ = ["CUDAGraphs"]

logger = logging.getLogger(__name__)


class CUDAGraphs:
    """Calls a function through CUDA graphs: a launch for all its kernels, instead of one each.

    The first call of a size runs, warms up and captures; later ones copy the inputs in, replay and
    return copies of the outputs.  A size that cannot be captured runs eagerly from then on, and so
    does everything on another device.  cuDNN times its algorithms while it warms up and keeps the
    fastest, since a size that is captured comes again.  Threads take turns, since a graph's inputs
    and outputs have one place in memory.
    """

    def __init__(self, function: Callable[..., Any], max_sizes: int = 8, warmup: int = 3):
        """
        Args:
            function: from tensors to a tensor, or tuples, lists and dicts of tensors, without
                synchronizations.
            max_sizes: graphs to keep, those used last; each holds its activations.
            warmup: eager calls before the capture.
        """
        self.function = function
        self.max_sizes = max_sizes
        self.warmup = warmup
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self._turn = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        # Graphs belong to this process's device memory.
        return {"function": self.function, "max_sizes": self.max_sizes, "warmup": self.warmup}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def clear(self) -> None:
        """Forget every graph, as when the function's weights were moved."""
        with self._turn:
            self._graphs.clear()

    def applies(self, x: torch.Tensor) -> bool:
        """Whether a call with this input may be replayed."""
        return x.device.type == "cuda" and not torch.is_grad_enabled()

    def __call__(self, *inputs: torch.Tensor, **constants: Hashable) -> Any:
        """
        Args:
            inputs: of the function.
            constants: of the function; other values are another graph.
        """
        if not self.applies(inputs[0]):
            return self.function(*inputs, **constants)
        key = (
            *((tuple(x.shape), x.dtype, x.device) for x in inputs),
            tuple(constants.items()),
            torch.is_autocast_enabled(inputs[0].device.type),
        )
        with self._turn:
            return self._run(key, *inputs, **constants)

    def _run(self, key: Hashable, *inputs: torch.Tensor, **constants: Hashable) -> Any:
        if key not in self._graphs:
            self._graphs[key] = self._capture(*inputs, **constants)
            if len(self._graphs) > self.max_sizes:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        entry = self._graphs[key]
        if entry is None:
            return self.function(*inputs, **constants)
        graph, static_inputs, static_outputs, structure = entry
        for static, x in zip(static_inputs, inputs, strict=True):
            static.copy_(x)
        graph.replay()
        return nested(structure, iter([output.clone() for output in static_outputs]))

    def _capture(self, *inputs: torch.Tensor, **constants: Hashable) -> Any:
        benchmark = torch.backends.cudnn.benchmark
        try:
            torch.backends.cudnn.benchmark = True
            static_inputs = [x.clone() for x in inputs]
            device = inputs[0].device
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(self.warmup):
                    self.function(*static_inputs, **constants)
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self.function(*static_inputs, **constants)
        except RuntimeError as error:
            shapes = [tuple(x.shape) for x in inputs]
            logger.warning("No CUDA graph for inputs %s, running eagerly: %s", shapes, error)
            return None
        finally:
            torch.backends.cudnn.benchmark = benchmark
        return graph, static_inputs, tensors_of(outputs), structure_of(outputs)
