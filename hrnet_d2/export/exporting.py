"""From weights to a folder that a runtime without this package can run."""

import functools
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch.export import ExportedProgram

from hrnet_d2 import model_zoo
from hrnet_d2.data import read_image
from hrnet_d2.data.datasets.shapes import draw
from hrnet_d2.engine import Predictor
from hrnet_d2.file_io import atomic_write

from . import int8, onnx_format, openvino_format, runtime
from .building import build_graph, export_program, output_names
from .checking import TOLERANCES, Comparison, check_images, compare
from .errors import ExportError, ExportMismatchError
from .folder import new_folder, refuse_existing
from .readme import readme
from .torch_formats import write_compiled_backbone, write_program, write_torchscript

__all__ = [
    "DTYPES",
    "FORMATS",
    "Export",
    "Source",
    "check_arguments",
    "cpu_predictor",
    "export",
    "layers_dtype",
    "settings_of",
    "write_export",
]

# Name -> the file of the graph, and the libraries that making it needs.
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("detector.onnx", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("detector.xml", ("openvino", "onnx", "onnxscript")),
    "torchscript": ("detector.pt", ()),
    "pt2": ("detector.pt2", ()),
}
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: with the graph, ``settings.json``, ``detector.py`` and a README.
        comparisons: with the model, one for each image.
    """

    folder: Path
    comparisons: list[Comparison]


def export(
    cfg: CfgNode | str,
    output: str | Path,
    *,
    format: str = "onnx",
    dtype: str = "float32",
    overwrite: bool = False,
    images: Sequence[np.ndarray] | None = None,
    calibrate: str | Path | None = None,
    keep: Sequence[str] = (),
    compile_backbone: bool = False,
    report: Callable[[str], None] = print,
) -> Export:
    """Export a detector, and check the export against the model.

    Args:
        cfg: as for :class:`~hrnet_d2.Predictor`: a full config with ``MODEL.WEIGHTS``, a
            checkpoint, or a name of the model zoo.
        output: the folder to write.
        format: a key of ``FORMATS``.
        dtype: a key of ``DTYPES``. ONNX and PyTorch's formats compute the layers in it. OpenVINO
            stores its weights as float16, or computes in bfloat16 where the processor has it.
        overwrite: replace an exported detector in ``output``.
        images: (H, W, 3) uint8 BGR to compare on; by default a drawn one, at two sizes, and with
            ``calibrate`` the first of these images.
        calibrate: folder of images like those that the detector will see, some hundred: quantize
            the layers to 8-bit integers on them (OpenVINO only).
        keep: parts of names of layers that stay in float32 when quantizing.
        compile_backbone: with "pt2", also compile backbone and neck by AOTInductor to
            ``backbone.pt2``, which needs a C++ compiler and some minutes.
        report: called with lines that say what is being done.

    Returns:
        What was written.

    Raises:
        ExportError: if the model has no form in the format, a library is missing, ``output`` holds
            something else, or the export and the model disagree; nothing is written then.
    """
    if compile_backbone and format != "pt2":
        raise ExportError(f"--compile-backbone is for the format pt2, not for {format}")
    if calibrate is not None:
        dtype = _int8(format, dtype)
    check_arguments(format, dtype)
    refuse_existing(Path(output), overwrite)
    calibration = None if calibrate is None else Calibration(_images_in(Path(calibrate)), keep)
    predictor = cpu_predictor(cfg)
    report(f"Recording the graph for {format}, which takes a minute or two")
    source = Source(predictor, layers_dtype(format, dtype))
    if images is None:
        first = draw(0, 0)[0] if calibration is None else read_image(str(calibration.files[0]))
        images = check_images(first)
    return write_export(
        source,
        Path(output),
        format,
        dtype,
        images,
        overwrite,
        report,
        calibration,
        compile_backbone,
    )


@dataclass(frozen=True)
class Calibration:
    """What quantization takes: images, and layers that stay in float32 (see ``int8.quantize``)."""

    files: Sequence[Path]
    keep: Sequence[str] = ()


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to calibrate on")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"There is no image in the folder {folder} to calibrate on")
    return files


def _int8(format: str, dtype: str) -> str:
    if format != "openvino" or dtype != "float32":
        raise ExportError(
            f"--calibrate quantizes for openvino and takes no other dtype, got {format} {dtype}"
        )
    return "int8"


class Source:
    """A model and its graph, recorded once for all formats that are made of it."""

    def __init__(self, predictor: Predictor, layers: torch.dtype):
        """
        Args:
            predictor: with a plain model on the CPU.
            layers: dtype of the graph's layers.
        """
        self.predictor = predictor
        self.graph = build_graph(predictor.model, layers)
        self.outputs = output_names(self.graph)

    @functools.cached_property
    def program(self) -> ExportedProgram:
        """Of ``torch.export``."""
        return export_program(self.graph)

    @functools.cached_property
    def onnx(self) -> "torch.onnx.ONNXProgram":
        """The program as ONNX."""
        return onnx_format.convert(self.program, self.outputs)


def layers_dtype(format: str, dtype: str) -> torch.dtype:
    """Of the graph's layers: OpenVINO converts a float32 graph to its own types."""
    return torch.float32 if format == "openvino" else DTYPES[dtype]


def write_export(
    source: Source,
    target: Path,
    format: str,
    dtype: str,
    images: Sequence[np.ndarray],
    overwrite: bool = False,
    report: Callable[[str], None] = print,
    calibration: Calibration | None = None,
    compile_backbone: bool = False,
) -> Export:
    """Write a recorded graph in one format; arguments and errors as for :func:`export`."""
    predictor = source.predictor
    with new_folder(target, overwrite) as folder:
        settings = settings_of(source, format, dtype)
        if calibration is not None:
            settings["quantization"] = {
                "images": len(calibration.files),
                "keep": list(calibration.keep),
            }
        _write_graph(source, folder, settings, calibration)
        _write_text(folder / runtime.SETTINGS, json.dumps(settings, indent=2) + "\n")
        _write_text(folder / "README.md", readme(settings))
        shutil.copyfile(runtime.__file__, folder / "detector.py")
        if compile_backbone:
            report("Compiling the backbone, which takes some minutes")
            worst = write_compiled_backbone(predictor.model, folder / "backbone.pt2")
            report(f"backbone.pt2: differs from the model by {worst:.1e} of the largest value")
        report("Comparing it with the model")
        tolerance = TOLERANCES[dtype]
        detector = runtime.load(folder)
        comparisons = compare(detector, predictor, predictor.model, images, tolerance)
        del detector
        rows = [comparison.as_dict() for comparison in comparisons]
        _write_text(folder / "check.json", json.dumps(rows, indent=2) + "\n")
        for line in table(comparisons):
            report(line)
        if not all(comparison.ok for comparison in comparisons):
            raise ExportMismatchError(
                f"The {format} export in {dtype} and the model disagree by more than {tolerance}: "
                "nothing was written",
                comparisons,
            )
        size = sum(file.stat().st_size for file in folder.iterdir())
    report(f"{target}: {size / 2**20:.0f} MiB")
    return Export(target, comparisons)


def table(comparisons: Sequence[Comparison]) -> list[str]:
    """Lines for a terminal."""
    lines = ["image (h x w)   model  export  same  box (px)   score     mask IoU"]
    for c in comparisons:
        mask = "-" if c.mask is None else f"{c.mask:.4f}"
        lines.append(
            f"{c.height:5} x {c.width:<5}  {c.expected:6} {c.made:7} {c.same:5}  {c.box:<9.2g}  "
            f"{c.score:<8.2g}  {mask}"
        )
    return lines


def check_arguments(format: str, dtype: str) -> None:
    """
    Raises:
        ExportError: if the format cannot be made in the dtype, or not with what is installed.
    """
    if format not in FORMATS:
        raise ExportError(f"There is no format {format!r}, only {', '.join(FORMATS)}")
    if dtype not in (*DTYPES, "int8"):
        raise ExportError(f"There is no dtype {dtype!r}, only {', '.join(DTYPES)}")
    if format == "onnx" and dtype == "bfloat16":
        raise ExportError(
            "ONNX Runtime has no bfloat16 convolutions on a CPU: export float32, or use openvino"
        )
    needed = (*FORMATS[format][1], *(("nncf",) if dtype == "int8" else ()))
    missing = [name for name in needed if not _version(name)]
    if missing:
        extra = "int8" if dtype == "int8" else format
        raise ExportError(
            f"{extra} needs {', '.join(missing)}, not installed here: pip install "
            f"'hrnet_d2[{extra}]'"
        )


def cpu_predictor(cfg: CfgNode | str) -> Predictor:
    """The plain model: what optimization rewrites for PyTorch, other runtimes do on their own."""
    if not isinstance(cfg, CfgNode):
        cfg = model_zoo.config_of(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return Predictor(cfg, optimize=False)


def _write_graph(
    source: Source, folder: Path, settings: dict[str, Any], calibration: Calibration | None
) -> None:
    format, path = settings["format"], folder / settings["graph"]
    if format == "torchscript":
        write_torchscript(source.graph, path)
    elif format == "pt2":
        write_program(source.program, path)
    elif format == "onnx":
        source.onnx.save(path)
    else:
        model = openvino_format.convert(source.onnx, folder)
        if calibration is not None:
            prepare = runtime.Detector(settings, lambda inputs: []).prepare
            inputs = [prepare(read_image(str(file))) for file in calibration.files]
            model = int8.quantize(model, inputs, calibration.keep)
        openvino_format.save(model, path, half_weights=settings["dtype"] == "float16")


def settings_of(source: Source, format: str, dtype: str) -> dict[str, Any]:
    """What ``settings.json`` says: all that a runtime must know, and where the graph comes from."""
    cfg, metadata = source.predictor.cfg, source.predictor.metadata
    fcos = cfg.MODEL.META_ARCHITECTURE == "FCOS"
    thresholds = cfg.MODEL.FCOS if fcos else cfg.MODEL.ROI_HEADS
    backbone: Any = source.graph.model.backbone
    settings: dict[str, Any] = {
        "format_version": runtime.FORMAT_VERSION,
        "format": format,
        "graph": FORMATS[format][0],
        "dtype": dtype,
        "outputs": source.outputs,
        "model": cfg.MODEL.META_ARCHITECTURE if fcos else cfg.MODEL.ROI_HEADS.NAME,
        "weights": Path(cfg.MODEL.WEIGHTS).name,
        "arithmetic": cfg.MODEL.ARITHMETIC,
        "classes": list(metadata.get("thing_classes", [])),
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


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        Path(part).write_text(text, encoding="utf-8")
