"""What can be exported with what is installed, and ``settings.json``."""

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hrnet_d2.data import num_classes
from hrnet_d2.data.categories import category_id, category_ids

from . import onnx_format, runtime
from .errors import ExportError

if TYPE_CHECKING:
    from .exporting import Source

__all__ = [
    "DTYPES",
    "FORMATS",
    "check_arguments",
    "check_options",
    "is_old",
    "layers_dtype",
    "settings_of",
]

# Name -> the file of the graph, and the libraries that making it needs.
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("detector.onnx", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("detector.xml", ("openvino", "onnx", "onnxscript")),
    "torchscript": ("detector.pt", ()),
    "pt2": ("detector.pt2", ()),
}
# From here on ``torch.export`` records sizes that only the data tell, as of detections.
OLDEST_TORCH = (2, 7)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def layers_dtype(format: str, dtype: str) -> torch.dtype:
    """Of the graph's layers: OpenVINO converts a float32 graph to its own types."""
    return torch.float32 if format == "openvino" else DTYPES[dtype]


def is_old(version: str) -> bool:
    """Whether a version of PyTorch is older than what exports by ``torch.export`` need."""
    return tuple(map(int, version.split(".")[:2])) < OLDEST_TORCH


def check_arguments(format: str, dtype: str) -> None:
    """
    Raises:
        ExportError: if the format cannot be made in the dtype, or not with what is installed.
    """
    if format not in FORMATS:
        raise ExportError(f"There is no format {format!r}, only {', '.join(FORMATS)}")
    if dtype not in (*DTYPES, "int8"):
        raise ExportError(f"There is no dtype {dtype!r}, only {', '.join((*DTYPES, 'int8'))}")
    if format == "onnx" and dtype == "bfloat16":
        raise ExportError(
            "ONNX Runtime has no bfloat16 convolutions on a CPU (NOT_IMPLEMENTED: Could not find "
            "an implementation for Conv(22)): export float32, or use openvino"
        )
    if format != "torchscript" and is_old(torch.__version__):
        raise ExportError(
            f"{format} needs PyTorch {'.'.join(map(str, OLDEST_TORCH))} or newer, and this is "
            f"{torch.__version__}: install a newer one, or export to torchscript"
        )
    needed = (*FORMATS[format][1], *(("nncf",) if dtype == "int8" else ()))
    missing = [name for name in needed if not _version(name)]
    if missing:
        extra = "int8" if dtype == "int8" else format
        raise ExportError(
            f"{extra} needs {', '.join(missing)}, not installed here: pip install "
            f"'hrnet_d2[{extra}]'"
        )


def check_options(
    format: str, dtype: str, *, calibrate: bool, keep: bool, compile_backbone: bool
) -> str:
    """Check what is asked for; quick, so that it can come first.

    Returns:
        The dtype, which is "int8" with ``calibrate``.

    Raises:
        ExportError: if the options exclude each other; and as :func:`check_arguments`.
    """
    if compile_backbone and format != "pt2":
        raise ExportError(f"--compile-backbone is for the format pt2, not for {format}")
    if keep and not calibrate:
        raise ExportError("--keep is for --calibrate: nothing else is quantized")
    if calibrate and (format != "openvino" or dtype not in ("float32", "int8")):
        raise ExportError(
            f"--calibrate quantizes for openvino and takes no other dtype, got {format} {dtype}"
        )
    if dtype == "int8" and not calibrate:
        raise ExportError("int8 needs --calibrate: a folder of images to quantize on")
    dtype = "int8" if calibrate else dtype
    check_arguments(format, dtype)
    return dtype


def settings_of(source: "Source", format: str, dtype: str) -> dict[str, Any]:
    """What ``settings.json`` says: all that a runtime must know, and where the graph comes from."""
    cfg, metadata = source.predictor.cfg, source.predictor.metadata
    fcos = cfg.MODEL.META_ARCHITECTURE == "FCOS"
    thresholds = cfg.MODEL.FCOS if fcos else cfg.MODEL.ROI_HEADS
    backbone: Any = source.graph.model.backbone
    names = list(metadata.get("thing_classes", []))
    count = num_classes(cfg) or ("", len(names))
    names = names if len(names) == count[1] else []
    ids = category_ids(metadata)
    settings: dict[str, Any] = {
        "format_version": runtime.FORMAT_VERSION,
        "format": format,
        "graph": FORMATS[format][0],
        "dtype": dtype,
        "outputs": source.outputs,
        "model": cfg.MODEL.META_ARCHITECTURE if fcos else cfg.MODEL.ROI_HEADS.NAME,
        "weights": Path(cfg.MODEL.WEIGHTS).name,
        "arithmetic": cfg.MODEL.ARITHMETIC,
        "classes": names,
        "category_ids": [category_id(k, ids) for k in range(len(names))],
        "score_thresh": thresholds.SCORE_THRESH_TEST,
        "nms_thresh": thresholds.NMS_THRESH_TEST,
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "input": {
            "format": cfg.INPUT.FORMAT,
            "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": list(cfg.MODEL.PIXEL_STD),
            "resize": cfg.INPUT.BACKEND,
            "short_edge": cfg.INPUT.MIN_SIZE_TEST,
            "long_edge": cfg.INPUT.MAX_SIZE_TEST,
            "size_divisibility": backbone.size_divisibility,
        },
        "versions": {
            name: version
            for name in ("hrnet_d2", "torch", "torchvision", *FORMATS[format][1], "nncf")
            if (version := _version(name)) and (name != "nncf" or dtype == "int8")
        },
    }
    if format == "openvino":
        # On a CPU float16 weights are computed with in float32.
        settings["run_dtype"] = "bfloat16" if dtype == "bfloat16" else "float32"
    if format in ("onnx", "openvino"):
        settings["opset"] = onnx_format.OPSET
    return settings


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
