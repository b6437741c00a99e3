"""From weights to a folder that a runtime without this package can run."""

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch.export import ExportedProgram

from hrnet_d2 import model_zoo
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import read_image
from hrnet_d2.data.datasets.shapes import draw
from hrnet_d2.engine import Predictor
from hrnet_d2.file_io import atomic_write

from . import onnx_format, openvino_format, runtime
from .building import build_graph, export_program, output_names
from .checking import LOWEST_THRESHOLD, TOLERANCES, Comparison, check_images, compare
from .errors import ExportError, ExportMismatchError
from .evaluating import MOST_LOST, average_precision, check_evaluation
from .folder import new_folder, refuse_existing
from .predictor import ExportedPredictor
from .quantizing import Calibration, check_keep, quantize
from .readme import readme
from .sensitivity import advice
from .settings import check_options, layers_dtype, settings_of
from .torch_formats import write_compiled_backbone, write_program, write_torchscript

__all__ = ["Export", "Source", "cpu_predictor", "export", "write_export"]


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: with the graph, ``settings.json``, ``detector.py`` and a README.
        comparisons: with the model, one for each image.
        average_precision: of "model" and "export", by task ("bbox", "segm"); empty if they were
            not evaluated.
    """

    folder: Path
    comparisons: list[Comparison]
    average_precision: dict[str, dict[str, float]] = field(default_factory=dict)


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
    evaluate: bool = False,
    compile_backbone: bool = False,
    report: Callable[[str], None] = print,
) -> Export:
    """Export a detector, and check the export against the model.

    Args:
        cfg: as for :class:`~hrnet_d2.Predictor`: a full config with ``MODEL.WEIGHTS``, a
            checkpoint, or a name of the model zoo.
        output: the folder to write.
        format: a key of ``FORMATS``.
        dtype: a key of ``DTYPES``, or "int8", which ``calibrate`` implies. ONNX and PyTorch's
            formats compute the layers in it. OpenVINO stores its weights as float16, or computes
            in bfloat16 where the processor has it.
        overwrite: replace an exported detector in ``output``.
        images: (H, W, 3) uint8 BGR to compare on; by default a drawn one, at two sizes, and with
            ``calibrate`` the first of these images. An empty list compares nothing.
        calibrate: folder of images like those that the detector will see, some hundred: quantize
            the layers to 8-bit integers on them (OpenVINO only).
        keep: parts of names of layers that stay in float32 when quantizing.
        evaluate: also compare the average precision on the first of ``DATASETS.TEST``.
        compile_backbone: with "pt2", also compile backbone and neck by AOTInductor to
            ``backbone.pt2``, which needs a C++ compiler and some minutes.
        report: called with lines that say what is being done.

    Returns:
        What was written.

    Raises:
        ExportError: if the model has no form in the format, a library is missing, ``output`` holds
            something else or cannot be made, or the export and the model disagree; nothing is
            written then.
        FileNotFoundError, ImageReadError: of the images to calibrate on.
    """
    dtype = check_options(
        format,
        dtype,
        calibrate=calibrate is not None,
        keep=bool(keep),
        compile_backbone=compile_backbone,
    )
    refuse_existing(Path(output), overwrite)
    calibration = None if calibrate is None else Calibration.of_folder(Path(calibrate), keep)
    predictor = cpu_predictor(cfg)
    if evaluate:
        check_evaluation(predictor.cfg)
    source = Source(predictor, layers_dtype(format, dtype))
    check_keep(keep, [name for name, _ in source.graph.named_parameters()])
    report(f"Recording the graph for {format}, which takes a minute or two")
    if images is None:
        first = draw(0, 0)[0] if calibration is None else read_image(str(calibration.files[0]))
        images = check_images(first)
    return write_export(
        source,
        Path(output),
        format,
        dtype,
        images,
        overwrite=overwrite,
        calibration=calibration,
        evaluate=evaluate,
        compile_backbone=compile_backbone,
        report=report,
    )


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

    @functools.cached_property
    def openvino(self) -> Any:
        """``openvino.Model``, which saving and quantizing leave as it is."""
        return openvino_format.convert(self.onnx)


def write_export(
    source: Source,
    target: Path,
    format: str,
    dtype: str,
    images: Sequence[np.ndarray],
    *,
    overwrite: bool = False,
    calibration: Calibration | None = None,
    evaluate: bool = False,
    compile_backbone: bool = False,
    report: Callable[[str], None] = print,
) -> Export:
    """Write a recorded graph in one format; arguments and errors as for :func:`export`."""
    predictor = source.predictor
    precision: dict[str, dict[str, float]] = {}
    with new_folder(target, overwrite) as folder:
        settings = settings_of(source, format, dtype)
        if calibration is not None:
            count, keep = len(calibration.files), list(calibration.keep)
            settings["quantization"] = {"images": count, "keep": keep}
            report(f"Quantizing on {count} images")
        _write_graph(source, folder, settings, calibration)
        settings["files"] = {file.name: runtime.digest(file) for file in sorted(folder.iterdir())}
        _write_text(folder / runtime.SETTINGS, json.dumps(settings, indent=2) + "\n")
        _write_text(folder / "README.md", readme(settings))
        shutil.copyfile(runtime.__file__, folder / "detector.py")
        if compile_backbone:
            report("Compiling the backbone, which takes some minutes")
            worst = write_compiled_backbone(predictor.model, folder / "backbone.pt2")
            report(f"backbone.pt2: differs from the model by {worst:.1e} of the largest value")
        report("Comparing it with the model" if images else "Not compared: there are no images")
        detector = runtime.load(folder, trusted=True)
        comparisons = compare(detector, predictor, predictor.model, images, TOLERANCES[dtype])
        for line in table(comparisons) if comparisons else ():
            report(line)
        if comparisons and not any(c.expected or c.made for c in comparisons):
            report(
                "Nothing was compared: neither found anything, down to scores of "
                f"{LOWEST_THRESHOLD}. Name a photograph with --image in which there is something"
            )
        if evaluate:
            report(f"Evaluating both on {predictor.cfg.DATASETS.TEST[0]}")
            precision = _evaluate(predictor, detector, report)
        del detector
        found = {"comparisons": [x.as_dict() for x in comparisons], "average_precision": precision}
        _write_text(folder / "check.json", json.dumps(found, indent=2) + "\n")
        if problem := _problem(dtype, comparisons, precision):
            if calibration is not None:
                report("Looking for the layers that quantization harms most")
                problem += f". {advice(source, settings, calibration, report)}"
            raise ExportMismatchError(
                f"The {format} export in {dtype} {problem}. Nothing was written", comparisons
            )
        size = sum(file.stat().st_size for file in folder.iterdir())
    report(f"{target}: {size / 2**20:.0f} MiB")
    return Export(target, comparisons, precision)


def _evaluate(
    predictor: Predictor, detector: runtime.Detector, report: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """The average precision of the model and of the export, by task.

    Raises:
        ExportError: if the model has none.
    """
    model = average_precision(predictor.cfg, predictor)
    model = {task: value for task, value in model.items() if np.isfinite(value)}
    if not model:
        raise ExportError(
            f"--evaluate: the model has no AP on {predictor.cfg.DATASETS.TEST[0]}: it found "
            "nothing, or nothing is annotated there. Nothing was written"
        )
    made = average_precision(predictor.cfg, ExportedPredictor(detector))
    for task, value in model.items():
        change = made[task] - value
        report(f"{task} AP: model {value:.2f}, export {made[task]:.2f} ({change:+.2f})")
    return {"model": model, "export": {task: made[task] for task in model}}


def _problem(
    dtype: str, comparisons: Sequence[Comparison], precision: dict[str, dict[str, float]]
) -> str:
    """What is wrong with an export; "" if nothing is.

    Average precision, where it is known, says more than a few images.
    """
    if precision:
        model, made = precision["model"], precision["export"]
        lost = {task: value - made[task] for task, value in model.items()}
        bad = [f"{value:.2f} {task} AP" for task, value in lost.items() if not value <= MOST_LOST]
        return f"costs {' and '.join(bad)}, more than {MOST_LOST}" if bad else ""
    wrong = [comparison for comparison in comparisons if not comparison.ok]
    if not wrong:
        return ""
    worst = min(wrong, key=lambda c: c.same / max(c.expected, c.made))
    tolerance = TOLERANCES[dtype]
    return (
        f"and the model disagree: {worst.same} of {max(worst.expected, worst.made)} detections in "
        f"an image of {worst.width} x {worst.height} pixels (width x height) are the same, "
        f"{tolerance.share:.0%} must be; of the {worst.confident} best {worst.confident_same}, "
        f"{tolerance.confident:.0%} must be"
    )


def table(comparisons: Sequence[Comparison]) -> list[str]:
    """Lines for a terminal."""
    lines = [
        "image (h x w)  batch  model  export  same  of the best  box (px)   score     mask IoU"
    ]
    for c in comparisons:
        mask = "-" if c.mask is None else f"{c.mask:.4f}"
        best = f"{c.confident_same} of {c.confident}"
        lines.append(
            f"{c.height:5} x {c.width:<5}  {c.batch:5} {c.expected:6} {c.made:7} {c.same:5}  "
            f"{best:11}  "
            f"{c.box:<9.2g}  {c.score:<8.2g}  {mask}"
        )
    return lines


def cpu_predictor(cfg: CfgNode | str) -> Predictor:
    """The plain model: what optimization rewrites for PyTorch, other runtimes do on their own.

    Raises:
        ConfigError: if the config asks for test-time augmentation, or for images in another format
            than RGB or BGR.
    """
    if not isinstance(cfg, CfgNode):
        cfg = model_zoo.config_of(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError(
            "Test-time augmentation cannot be exported, since it runs the network several times: "
            "set TEST.AUG.ENABLED False, which changes the detections"
        )
    if cfg.INPUT.FORMAT not in runtime.CHANNELS:
        raise ConfigError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: exported detectors take only "
            f"{' or '.join(runtime.CHANNELS)}"
        )
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
        model = source.openvino
        if calibration is not None:
            prepare = runtime.Detector(settings, lambda inputs: []).prepare
            model = quantize(model, calibration, prepare)
        openvino_format.save(model, path, half_weights=settings["dtype"] == "float16")


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        Path(part).write_text(text, encoding="utf-8")
