"""A backbone in another type, behind CUDA graphs, or with coarser sizes."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from .cuda_graphs import CUDAGraphs
from .dense import Store

__all__ = ["OptimizedBackbone"]


class OptimizedBackbone(Backbone):
    """Returns the maps of another backbone, those of 16 bits in float32.

    Attributes:
        run: the graphs, or None.
    """

    def __init__(self, inner: Backbone, dtype: torch.dtype | None = None, bucket: int = 0):
        """
        Args:
            inner: the backbone.
            dtype: to convert it to; None leaves it as it is.
            bucket: to what multiple images are padded; 0 is the backbone's own.
        """
        super().__init__()
        self.inner = inner if dtype is None else inner.to(dtype)
        self.dtype = dtype
        self.bucket = bucket
        self.run: CUDAGraphs | None = None
        self._store: Store | None = None
        self._levels: list[str] = []
        self._out_features = inner._out_features

    def capture(self, head: Callable[[list], Any], levels: Sequence[str], store: Store) -> None:
        """Run the backbone, and what reads its maps, as CUDA graphs from now on.

        Args:
            head: from the maps of ``levels``, in the backbone's type, to tensors.
            levels: names of the maps that it reads.
            store: where ``head``'s outputs are kept; what asks for them has it too.
        """
        self.run = CUDAGraphs(_Dense(self, head, levels))
        self._store = store
        self._levels = list(levels)

    @property
    def size_divisibility(self) -> int:
        return self.bucket or self.inner.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.inner.padding_constraints

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.inner.output_shape()

    def compute(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The maps in the backbone's type."""
        if self.dtype is None:
            return self.inner(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.inner(x.to(self.dtype))

    def finish(self, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The maps as this backbone returns them."""
        if self.dtype is None:
            return maps
        return {name: level.float() for name, level in maps.items()}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.run is None or not self.run.applies(x):
            return self.finish(self.compute(x))
        maps, outputs = self.run(x)
        if self._store is not None:
            self._store.keep([maps[level] for level in self._levels], outputs)
        return maps


class _Dense:
    """From images to the maps, and what the head makes of them: one CUDA graph."""

    def __init__(
        self, backbone: OptimizedBackbone, head: Callable[[list], Any], levels: Sequence[str]
    ):
        self.backbone, self.head, self.levels = backbone, head, levels

    def __call__(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], Any]:
        maps = self.backbone.compute(x)
        dtype = self.backbone.dtype
        same = contextlib.nullcontext()
        with same if dtype is None else torch.autocast(x.device.type, dtype=dtype):
            outputs = self.head([maps[level] for level in self.levels])
        return self.backbone.finish(maps), outputs
