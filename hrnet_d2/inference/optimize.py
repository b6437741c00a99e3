"""Make a detector faster at inference.

By default only the order of float operations changes: the detections are the same to rounding.
Whatever trades accuracy or start-up time is an argument of its own, and off.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex, TypeVar, cast

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrnet_d2.modeling.backbone.hrnet import HRNet

from .choosing import faster_of
from .fused_hrnet import FusedHRNet
from .gpu_input import take_images_faster
from .graphed import forget_graphs, pool_without_waiting, use_cuda_graphs
from .openvino_backend import BackendError, connect, is_available
from .optimized_backbone import OptimizedBackbone
from .packed_weight import version_of
from .processor import has_fast_bfloat16, has_fast_float16
from .rewrite import rewrite_for_inference

__all__ = ["is_optimized", "optimize", "optimize_by_config", "running", "to_float32"]

logger = logging.getLogger(__name__)

BACKENDS = ("torch", "openvino", "inductor", "auto")
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


# Tensor cores multiply matrices in steps of this many channels.
TENSOR_CORE_CHANNELS = 8

_Optimized = TypeVar("_Optimized", bound="_InferenceOnly")


class _InferenceOnly(nn.Module):
    """What ``optimize`` puts before a model's own class: it runs, and does not train."""

    # Set by ``optimize`` on each model.
    _autocast: torch.dtype | None
    _compiled: bool
    _shared: list[torch.Tensor]
    _versions: list[int]
    # Tensors of the model given whose values this copy has in another form, and their versions.
    _rewritten: list[tuple[weakref.ref[torch.Tensor], int]]

    def train(self: _Optimized, mode: bool = True) -> _Optimized:
        if mode:
            raise RuntimeError(
                "this model is optimized for inference and cannot train: its normalization layers "
                "are folded into the convolutions. Train the model that was given to "
                "hrnet_d2.optimize, which is unchanged"
            )
        return super().train(False)

    def _check_unchanged(self) -> None:
        changed = [version_of(tensor) for tensor in self._shared] != self._versions
        if changed or _are_written(self._rewritten):
            raise RuntimeError(
                "the weights of the model that was given to hrnet_d2.optimize have changed since, "
                "so this copy would run a mixture of old and new ones: call hrnet_d2.optimize again"
            )

    def _apply(self: _Optimized, *args: Any, **kwargs: Any) -> _Optimized:
        self._check_unchanged()
        super()._apply(*args, **kwargs)
        forget_graphs(self)
        self._versions = [version_of(tensor) for tensor in self._shared]
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with running(self):
            outputs = super().forward(*args, **kwargs)
        if self._autocast is not None and isinstance(outputs, list):
            for output in outputs:
                to_float32(output.get("instances"))
        return outputs

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        self._check_unchanged()
        self._own_memory()
        # The class is made at run time, so it is named by the one that it is made from.
        return _new_optimized, (type(self).__mro__[2],), self.__getstate__()

    def _own_memory(self) -> None:
        """Stop sharing memory with the model given.

        Sent to another process, this copy would otherwise move the model's weights to shared
        memory, and there follow their changes unnoticed.
        """
        shared = {_address(tensor) for tensor in self._shared}
        super()._apply(lambda t: t.clone() if _address(t) in shared else t)
        self._shared, self._versions, self._rewritten = [], [], []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._compiled:  # nn.Module drops what it compiled
            _compile(self)


def _are_written(versions: list[tuple[weakref.ref[torch.Tensor], int]]) -> bool:
    for get, version in versions:  # thousands, at each image: no calls
        tensor = get()
        if tensor is not None and tensor._version != version:
            return True
    return False


@functools.cache
def _optimized_class(base: Callable[..., nn.Module]) -> type[_InferenceOnly]:
    """A subclass keeps isinstance and every attribute, and changes nobody's class."""
    return type(f"Optimized{base.__name__}", (_InferenceOnly, cast(type, base)), {})


def _new_optimized(base: Callable[..., nn.Module]) -> nn.Module:
    """An optimized model without state, for pickle and copy to fill."""
    cls = _optimized_class(base)
    return cls.__new__(cls)


@contextlib.contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """What an optimized model's ``forward`` runs in, for those who call its other methods.

    Does nothing for other models.

    Raises:
        RuntimeError: if the model that the optimized one was made from has changed since.
    """
    if not isinstance(model, _InferenceOnly):
        yield
        return
    model._check_unchanged()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if model._autocast is not None:
            device = next(model.parameters()).device.type
            stack.enter_context(torch.autocast(device, dtype=model._autocast))
        yield


def to_float32(instances: Instances | None) -> None:
    """Scores of 16 bits to float32, in place: NumPy and the evaluators have no bfloat16."""
    if instances is not None:
        for name, value in instances.get_fields().items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                instances.set(name, value.float())
            elif isinstance(value, Boxes):
                instances.set(name, Boxes(value.tensor.float()))


def is_optimized(model: nn.Module) -> bool:
    """Whether a model came from :func:`optimize`."""
    return isinstance(model, _InferenceOnly)


def optimize(
    model: nn.Module,
    *,
    fold: bool = True,
    channels_last: bool | None = None,
    winograd: bool = True,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    cuda_graphs: bool = False,
    size_bucket: int = 0,
    backend: str = "torch",
) -> nn.Module:
    """A copy of a detector for fast inference; the model given stays as it is.

    The copy is of a subclass of the model's class, with the same ``backbone``,
    ``preprocess_image`` and ``forward``, always in eval mode, and computes without gradients.  It
    shares the memory of the weights that it does not rewrite, but no tensor objects: moving or
    converting the copy does not touch the model.  It can be copied and pickled (from then on it
    shares no memory with the model; the result compiles and captures CUDA graphs again) but cannot
    load weights.
    After the model's weights change, the copy raises ``RuntimeError``: optimize the model again.

    With the defaults results equal the model's to float rounding, on the CPU and on a GPU:
    normalization is folded into convolutions; sums and ReLU run inside them; HRFPN concatenates
    nothing; on the CPU large 3x3 convolutions take Winograd's algorithm and RoIAlign runs on all
    threads.  Works for every Detectron2 model; parts that have no faster form stay.

    Args:
        model: any detector, with its weights loaded and on its device.
        fold: rewrite layers as above.
        channels_last: memory format of the maps; None is yes on the CPU, and on a GPU with a
            16-bit ``dtype`` or where convolutions may round to TF32 (PyTorch's default): without,
            channels-last convolutions are several times slower.
        winograd: allow Winograd's algorithm (rounding of 1e-5 of the largest value of a map,
            against 2e-6).
        dtype: ``torch.bfloat16`` or ``torch.float16`` for the backbone, and autocast for the
            heads. Changes results by the type's precision.
        compile: ``torch.compile`` the backbone module by module, with dynamic sizes: one graph for
            each stage, and some more where PyTorch picks other kernels for very small or very
            large images. Needs a C++ compiler on the CPU, where the first image takes a minute
            (``tools/benchmark.py inference --variants compile`` says how long).
        cuda_graphs: on a GPU, replay the backbone with the RPN's or FCOS's head, and the box heads,
            as one CUDA graph each for each size of input; falls back to eager where a size cannot
            be captured, and on the CPU.
        size_bucket: pad images to multiples of this, a multiple of 32, so that fewer sizes
            occur for compilation and graphs. Changes results a little near the padded border.
            0 pads to the backbone's own 32.
        backend: what runs the backbone, the neck and the RPN's or FCOS's head. "torch";
            "openvino", on the CPU, converted in memory (some seconds) and checked against PyTorch;
            "auto", where OpenVINO is installed and can run the model, the faster of the two on this
            machine, measured (some seconds); or "inductor", the same as ``compile``.

    Returns:
        The optimized copy; ``model`` itself where it is one already.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: if an argument is not one of the above, or weights are NaN or infinite; the
            message names the argument or the weights.
        BackendError: if ``backend`` is "openvino", and it is missing or cannot run the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            "optimize takes a detector, such as hrnet_d2.modeling.build_model(cfg) or "
            f"Predictor(...).model; got {type(model).__name__}"
        )
    if is_optimized(model):
        return model
    if dtype not in DTYPES.values() and dtype != torch.float32:
        names = ", ".join(f"torch.{name}" for name in DTYPES)
        raise ValueError(f"dtype must be one of {names}, got {dtype!r}")
    if size_bucket < 0 or size_bucket % 32:
        raise ValueError(f"size_bucket must be a multiple of 32, got {size_bucket}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {list(BACKENDS)}, got {backend!r}")
    if backend == "openvino" and (compile or cuda_graphs):
        raise ValueError("compile and cuda_graphs are of backend 'torch', not of 'openvino'")
    compile = compile or backend == "inductor"
    if dtype == torch.float32:
        dtype = None
    if backend == "auto":
        if not (compile or cuda_graphs) and _is_for_openvino(model):
            choose = functools.partial(
                optimize,
                model,
                fold=fold,
                channels_last=channels_last,
                winograd=winograd,
                dtype=dtype,
                size_bucket=size_bucket,
            )
            return _faster(choose)
        backend = "torch"
    _check_finite(model)
    given = {_address(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    device = next(model.parameters()).device.type
    if channels_last is None:
        channels_last = device == "cpu" or dtype is not None or _on_tensor_cores(device, dtype)
    model = _copy_structure(model).eval()
    put_backend = connect(model, dtype) if backend == "openvino" else None
    model = rewrite_for_inference(
        model,
        fold=fold,
        channels_last=channels_last,
        use_winograd=winograd,
        channel_multiple=TENSOR_CORE_CHANNELS if _on_tensor_cores(device, dtype) else 1,
    )
    if device == "cuda":
        pool_without_waiting(model)
        take_images_faster(model)
    if compile:
        _compile(model)
    backbone_dtype = dtype
    if put_backend is not None:
        put_backend(model)
        backbone_dtype = None  # the graph has it inside
    wrapped = backbone_dtype is not None or cuda_graphs or size_bucket
    if wrapped and isinstance(getattr(model, "backbone", None), Backbone):
        backbone = OptimizedBackbone(model.backbone, backbone_dtype, size_bucket).eval()
        model.backbone = backbone
        if cuda_graphs:
            use_cuda_graphs(model, backbone)
    for module in model.modules():
        module._register_load_state_dict_pre_hook(_refuse_state)
    model.__class__ = _optimized_class(cast(Callable[..., nn.Module], type(model)))
    optimized = cast(_InferenceOnly, model)
    optimized._autocast = dtype
    optimized._compiled = compile
    # A detached tensor and the one that it was taken from count their changes together.
    tensors = (*model.parameters(), *model.buffers())
    optimized._shared = [tensor for tensor in tensors if _address(tensor) in given]
    optimized._versions = [version_of(tensor) for tensor in optimized._shared]
    shared = {_address(tensor) for tensor in optimized._shared}
    optimized._rewritten = [
        (weakref.ref(tensor), tensor._version)
        for address, tensor in given.items()
        if address not in shared and not tensor.is_inference()
    ]
    return optimized


def optimize_by_config(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """:func:`optimize` as ``cfg.MODEL.OPTIMIZE`` says; ``model`` itself if that is off.

    Raises:
        ValueError: if a key has a value that is not one of those its comment names.
    """
    node = cfg.MODEL.OPTIMIZE
    if not node.ENABLED:
        return model
    if node.DTYPE not in (*DTYPES, "auto"):
        names = [*DTYPES, "auto"]
        raise ValueError(f"MODEL.OPTIMIZE.DTYPE must be one of {names}, got {node.DTYPE!r}")
    formats = {"auto": None, "on": True, "off": False}
    if node.CHANNELS_LAST not in formats:
        raise ValueError(
            f"MODEL.OPTIMIZE.CHANNELS_LAST must be one of {list(formats)}, "
            f"got {node.CHANNELS_LAST!r}"
        )
    return optimize(
        model,
        channels_last=formats[node.CHANNELS_LAST],
        winograd=node.WINOGRAD,
        dtype=_dtype_for(node.DTYPE, next(model.parameters()).device),
        compile=node.COMPILE,
        cuda_graphs=node.CUDA_GRAPHS,
        size_bucket=node.SIZE_BUCKET,
        backend=node.BACKEND,
    )


def _on_tensor_cores(device: str, dtype: torch.dtype | None) -> bool:
    return device == "cuda" and (dtype is not None or torch.backends.cudnn.allow_tf32)


@functools.cache
def _say_once(message: str) -> None:
    logger.info(message)


def _dtype_for(name: str, device: torch.device) -> torch.dtype | None:
    """The type of a value of ``MODEL.OPTIMIZE.DTYPE``; says what another would give."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else None
    if name == "float32" and device.type == "cpu" and has_fast_bfloat16(device):
        _say_once(
            "This processor computes in bfloat16 as well: MODEL.OPTIMIZE.DTYPE bfloat16 takes "
            "about 0.6 times the time, and changes the results by the type's precision"
        )
    if name == "float16" and not has_fast_float16(device):
        logger.warning(
            "This processor has no instructions for float16, which is many times slower than "
            "float32: set MODEL.OPTIMIZE.DTYPE bfloat16 or float32"
        )
    return DTYPES[name]


def _is_for_openvino(model: nn.Module) -> bool:
    return is_available() and next(model.parameters()).device.type == "cpu"


def _faster(choose: Callable[..., nn.Module]) -> nn.Module:
    """The faster of PyTorch's and OpenVINO's form on this machine."""
    models = {"torch": choose(backend="torch")}
    try:
        models["openvino"] = choose(backend="openvino")
    except BackendError as error:
        logger.warning("PyTorch runs the network: %s", error)
        return models["torch"]
    return models[faster_of(models, running)]


def _copy_structure(model: nn.Module) -> nn.Module:
    """A copy of the modules whose parameters and buffers are new objects over the same storage.

    Moving or converting the copy replaces its own tensors and leaves the model's alone.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        memo.setdefault(id(buffer), buffer.detach())
    return copy.deepcopy(model, memo)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _refuse_state(*_: Any) -> None:
    raise RuntimeError(
        "an optimized model cannot load weights: its layers are rewritten. Load them into the "
        "model that was given to hrnet_d2.optimize, then optimize that"
    )


def _check_finite(model: nn.Module) -> None:
    """Refuse NaN and infinity, which the fused ReLU of oneDNN would turn into zeros."""
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, (_BatchNorm, FrozenBatchNorm2d)):
            tensors.update((f"{name}.{key}", buffer) for key, buffer in module.named_buffers())
    tensors = {name: t for name, t in tensors.items() if t.is_floating_point() and not t.is_meta}
    finite = {name: tensor.isfinite().all() for name, tensor in tensors.items()}
    if not finite or bool(torch.stack(list(finite.values())).all()):  # read once
        return
    bad = [name for name, flag in finite.items() if not flag]
    shown = ", ".join(bad[:4]) + (f", ... ({len(bad)} in all)" if len(bad) > 4 else "")
    raise ValueError(f"the model has weights that are NaN or infinite: {shown}")


def _compile(model: nn.Module) -> None:
    for module in _repeated_modules(model):
        module.compile(dynamic=True)


def _repeated_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of backbones that occur again and again: compiled once, run many times."""
    backbones = [m for m in model.modules() if isinstance(m, (FusedHRNet, HRNet))]
    found: list[nn.Module] = []
    for backbone in backbones:
        stages = getattr(backbone, "stages", None)
        stages = [backbone.stage2, backbone.stage3, backbone.stage4] if stages is None else stages
        found.extend(module for stage in stages for module in stage)
    return found
