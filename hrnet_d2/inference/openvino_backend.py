"""Backbone, neck and the dense head of a detector run by OpenVINO; PyTorch does the rest.

OpenVINO uses the matrix units of a CPU (AMX, AVX512-BF16) better than PyTorch does.  The network is
converted in memory from the plain model, which takes some seconds; nothing is written.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from .dense import Store, StoredHead, find_dense_head, nested, structure_of, tensors_of

__all__ = [
    "BackendError",
    "OpenVINONetwork",
    "connect",
    "convert",
    "is_available",
    "is_connected",
]

logger = logging.getLogger(__name__)

PRECISIONS = {None: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
# Largest error of a map against PyTorch's, relative to the map's largest value, that conversion
# accepts; a wrong conversion is off by about 1.
TOLERANCES = {None: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


class BackendError(RuntimeError):
    """OpenVINO is missing, or cannot run a model."""


def is_available() -> bool:
    """Whether OpenVINO can be imported."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def is_connected(model: nn.Module) -> bool:
    """Whether OpenVINO runs the backbone of a model."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return False
    return any(isinstance(module, _Backbone) for module in backbone.modules())


class _Dense(nn.Module):
    """From images to the maps of the backbone, channels last, and the outputs of a dense head."""

    def __init__(self, backbone: nn.Module, head: nn.Module | None, levels: Sequence[str]):
        super().__init__()
        self.backbone, self.head, self.levels = backbone, head, levels

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.backbone(x)
        outputs = list(features.values())
        if self.head is not None:
            outputs += tensors_of(self.head([features[name] for name in self.levels]))
        return tuple(output.permute(0, 2, 3, 1) for output in outputs)


class OpenVINONetwork:
    """A compiled graph; calls from several threads have requests of their own."""

    def __init__(self, compiled: Any, settings: dict[str, Any]):
        import openvino

        self._tensor = openvino.Tensor
        self._compiled = compiled
        self._settings = settings
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        exported = self._compiled.export_model()
        return _import_network, (exported.getvalue(), self._settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINONetwork:
        return self  # nothing of it changes

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        """
        Args:
            x: (N, C, H, W), float32.

        Returns:
            The graph's outputs, (N, h, w, c) in memory, seen as (N, c, h, w).
        """
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
            self._local.shapes = {}
        shapes = self._local.shapes
        data = self._tensor(x.contiguous().numpy(), shared_memory=True)
        known = shapes.get(x.shape)
        if known is None:
            # A request that has been given tensors would write to them.
            request = self._compiled.create_infer_request()
            request.infer([data])
            results = [torch.from_numpy(o.data.copy()) for o in request.output_tensors]
            if len(shapes) > 64:
                shapes.clear()
            shapes[x.shape] = [result.shape for result in results]
        else:
            results = [torch.empty(shape) for shape in known]
            for i, result in enumerate(results):
                tensor = self._tensor(result.numpy(), shared_memory=True)
                request.set_output_tensor(i, tensor)
            request.infer([data])
        return [result.permute(0, 3, 1, 2) for result in results]


def _import_network(exported: bytes, settings: dict[str, Any]) -> OpenVINONetwork:
    import openvino

    compiled = openvino.Core().import_model(exported, "CPU", settings)
    return OpenVINONetwork(compiled, settings)


def convert(
    backbone: Backbone,
    head: nn.Module | None = None,
    levels: Sequence[str] = (),
    *,
    dtype: torch.dtype | None = None,
    channels: int = 3,
) -> OpenVINONetwork:
    """Convert and compile a plain backbone, in eval mode on the CPU, with a head on its maps.

    Args:
        backbone: from (N, channels, H, W) to maps by name.
        head: from a list of maps to lists of maps, or None.
        levels: names of the maps that the head reads.
        dtype: of the computation; None is float32.
        channels: of the images.

    Returns:
        A callable from images to the maps, then the outputs of the head, in order.

    Raises:
        BackendError: if OpenVINO is missing, cannot convert the model, or computes something else
            than PyTorch for images of two other sizes.
    """
    try:
        import openvino
    except ImportError as error:
        raise BackendError(
            "OpenVINO is not installed: pip install 'hrnet_d2[openvino]', or set "
            "MODEL.OPTIMIZE.BACKEND torch"
        ) from error
    start = time.perf_counter()
    dense = _Dense(backbone, head, levels).eval()
    unit = max(smallest_side(backbone), backbone.size_divisibility)
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    example = torch.linspace(-2, 2, channels * unit * unit * 6).view(1, channels, 2 * unit, -1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # What tracing keeps as constants is checked below.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(dense, example, check_trace=False)
            graph = openvino.convert_model(traced, example_input=example)
        graph.reshape([-1, channels, -1, -1])
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
    except Exception as error:
        raise BackendError(f"OpenVINO cannot convert this backbone: {error}") from error
    network = OpenVINONetwork(compiled, settings)
    for shape in ((1, channels, 3 * unit, 2 * unit), (2, channels, unit, 4 * unit)):
        _check(network, dense, shape, TOLERANCES[dtype])
    logger.info("Converted to OpenVINO in %.1f s", time.perf_counter() - start)
    return network


def _check(network: OpenVINONetwork, dense: nn.Module, shape: Sequence[int], limit: float) -> None:
    size = torch.Size(shape).numel()
    images = torch.sin(torch.arange(size) * 0.7).view(*shape) + torch.cos(
        torch.arange(size) * 0.013
    ).view(*shape)
    with torch.no_grad():
        expected = [output.permute(0, 3, 1, 2) for output in dense(images)]
    try:
        found = network(images)
    except Exception as error:
        raise BackendError(f"OpenVINO cannot run this backbone: {error}") from error
    for right, given in zip(expected, found, strict=True):
        if right.shape != given.shape:
            raise BackendError(
                f"OpenVINO computes maps of {tuple(given.shape)}, not of {tuple(right.shape)}: set "
                "MODEL.OPTIMIZE.BACKEND torch"
            )
        wrong = float((right - given).abs().max() / right.abs().max().clamp(min=1e-6))
        if not wrong < limit:
            raise BackendError(
                f"OpenVINO computes this backbone with a relative error of {wrong:.2g}, above "
                f"{limit:g}: set MODEL.OPTIMIZE.BACKEND torch"
            )


def smallest_side(backbone: Backbone) -> int:
    """The least height and width of images in which every level has a row and a column."""
    return max(shape.stride or 1 for shape in backbone.output_shape().values())


class _Backbone(Backbone):
    """Runs the compiled graph where it applies, else the PyTorch backbone."""

    def __init__(
        self,
        inner: Backbone,
        network: OpenVINONetwork,
        store: Store,
        levels: Sequence[str],
        structure: Any,
    ):
        """
        Args:
            inner: the PyTorch backbone.
            network: of :func:`convert`.
            store: of the head.
            levels: names of the maps that the head reads.
            structure: of the head's outputs.
        """
        super().__init__()
        self.inner = inner
        self.network = network
        self.store = store
        self.levels = list(levels)
        self.structure = structure
        self.smallest = smallest_side(inner)
        self._out_features = list(inner.output_shape())

    @property
    def size_divisibility(self) -> int:
        return self.inner.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.inner.padding_constraints

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.inner.output_shape()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if (
            x.device.type != "cpu"
            or x.dtype != torch.float32  # the model was converted to another type
            or min(x.shape[-2:]) < self.smallest
        ):
            return self.inner(x)
        outputs = self.network(x.detach())
        names = self._out_features
        features = dict(zip(names, outputs, strict=False))
        if self.levels:
            head = nested(self.structure, iter(outputs[len(names) :]))
            self.store.keep([features[level] for level in self.levels], head)
        return features


Connection = Callable[[nn.Module], None]


def connect(model: nn.Module, dtype: torch.dtype | None) -> Connection:
    """Convert the dense part of a plain model.

    Args:
        model: a detector with a ``backbone``, in eval mode on the CPU.
        dtype: of the computation; None is float32.

    Returns:
        A function that puts the compiled graph into a copy of the model.

    Raises:
        BackendError: as :func:`convert`, or if the model is not such a detector.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise BackendError(f"OpenVINO runs detectors with a backbone, not {type(model).__name__}")
    if next(model.parameters()).device.type != "cpu":
        raise BackendError("OpenVINO runs on the CPU: set MODEL.DEVICE cpu")
    parent, name, levels = find_dense_head(model)
    head = None if parent is None else getattr(parent, name)
    channels = len(getattr(model, "pixel_mean", torch.zeros(3)))
    network = convert(backbone, head, levels, dtype=dtype, channels=channels)
    structure = None
    if head is not None:
        unit = max(smallest_side(backbone), backbone.size_divisibility)
        with torch.no_grad():
            maps = backbone(torch.zeros(1, channels, unit, unit))
            structure = structure_of(head([maps[level] for level in levels]))

    def put(copy: nn.Module) -> None:
        store = Store()
        copy.backbone = _Backbone(copy.backbone, network, store, levels, structure).eval()
        owner, attribute, _ = find_dense_head(copy)
        if owner is not None:
            setattr(owner, attribute, StoredHead(getattr(owner, attribute), store).eval())

    return put
