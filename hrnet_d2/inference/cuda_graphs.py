"""A module replayed as one CUDA graph for each size of its input."""

import logging
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

__all__ = ["CUDAGraphs"]

logger = logging.getLogger(__name__)


class CUDAGraphs:
    """Calls a module through CUDA graphs: a launch for all its kernels, instead of one each.

    The first call of a size runs, warms up and captures; later ones copy the input in, replay and
    return copies of the outputs.  A size that cannot be captured runs eagerly from then on, and so
    does everything on another device.
    """

    def __init__(self, module: nn.Module, max_sizes: int = 8, warmup: int = 3):
        """
        Args:
            module: from one tensor to a dict of tensors, without synchronizations.
            max_sizes: graphs to keep, those used last; each holds its activations.
            warmup: eager calls before the capture.
        """
        self.module = module
        self.max_sizes = max_sizes
        self.warmup = warmup
        self._graphs: OrderedDict[tuple, tuple | None] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # Graphs belong to this process's device memory.
        return {**self.__dict__, "_graphs": OrderedDict()}

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if x.device.type != "cuda" or torch.is_grad_enabled():
            return self.module(x)
        key = (tuple(x.shape), x.dtype, x.device)
        if key not in self._graphs:
            self._graphs[key] = self._capture(x)
            if len(self._graphs) > self.max_sizes:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        entry = self._graphs[key]
        if entry is None:
            return self.module(x)
        graph, static_input, static_outputs = entry
        static_input.copy_(x)
        graph.replay()
        return {name: output.clone() for name, output in static_outputs.items()}

    def _capture(self, x: torch.Tensor) -> tuple | None:
        try:
            static_input = x.clone()
            stream = torch.cuda.Stream(x.device)
            stream.wait_stream(torch.cuda.current_stream(x.device))
            with torch.cuda.stream(stream):
                for _ in range(self.warmup):
                    self.module(static_input)
            torch.cuda.current_stream(x.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                static_outputs = self.module(static_input)
        except RuntimeError as error:
            logger.warning("No CUDA graph for input %s, running eagerly: %s", tuple(x.shape), error)
            return None
        return graph, static_input, static_outputs
