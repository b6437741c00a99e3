"""Time from an image to its detections, by everything that can run a detector on this machine."""

import argparse
import copy
import functools
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode

from hrnet_d2 import model_zoo
from hrnet_d2.engine import Predictor
from hrnet_d2.export import load as load_export
from hrnet_d2.export.exporting import Source, cpu_predictor, write_export
from hrnet_d2.export.quantizing import Calibration

from .inference import difference, load_model
from .measuring import speedup, summary, time_interleaved
from .synthetic import synthetic_image

__all__ = ["RUNTIMES", "run_runtimes"]

# Options of MODEL.OPTIMIZE of what Predictor runs, and arguments of ``write_export``.
PREDICTORS: dict[str, list[Any]] = {
    "plain": ["ENABLED", False],
    "optimized": [],
    "bf16": ["DTYPE", "bfloat16"],
    "fp16": ["DTYPE", "float16"],
    "openvino-backend": ["BACKEND", "openvino"],
    "openvino-backend-bf16": ["BACKEND", "openvino", "DTYPE", "bfloat16"],
}
EXPORTS = {  # all of a graph in float32
    "openvino": ("openvino", "float32"),
    "openvino-bf16": ("openvino", "bfloat16"),
    "openvino-int8": ("openvino", "int8"),
    "onnxruntime": ("onnx", "float32"),
}
RUNTIMES = (*PREDICTORS, *EXPORTS)
CALIBRATION_IMAGES = 16


def run_runtimes(args: argparse.Namespace) -> list[dict]:
    """A row for each config: seconds of every runtime, alternated, and its distance from plain."""
    rows = []
    names = list(dict.fromkeys(["plain", "optimized", *(args.runtimes or RUNTIMES)]))
    for config in args.config:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_measure(args, config, names, Path(folder)))
    return rows


def _measure(args: argparse.Namespace, config: str, names: list[str], folder: Path) -> dict:
    weights = folder / "model.pth"
    options = ["MODEL.DEVICE", args.device, "INPUT.MIN_SIZE_TEST", min(args.size)]
    cfg = model_zoo.load_config(config, [*options, *args.opts])
    model = load_model(args, config)
    torch.save({"model": model.state_dict()}, weights)
    del model
    cfg.MODEL.WEIGHTS = str(weights)
    image = synthetic_image(*args.size)
    runs: dict[str, Callable[[Any], Any]] = {}
    row: dict[str, Any] = {"config": config, "size": args.size, "paths": {}}
    outputs = {}
    record = functools.cache(functools.partial(_record, cfg))
    for name in names:
        # All exports are of a graph that is recorded once, and each has to wait for that.
        source, recorded = record() if name in EXPORTS else (None, 0.0)
        start = time.perf_counter()
        runs[name] = _predictor(cfg, name) if source is None else _export(source, name, folder)
        ready = time.perf_counter()
        outputs[name] = runs[name](image)["instances"].to("cpu")
        first = time.perf_counter()
        row["paths"][name] = {
            "ready_s": round(recorded + ready - start, 2),
            "first_call_s": round(first - ready, 2),
            "difference": difference(outputs["plain"], outputs[name]),
        }
        gc.collect()
    calls = {name: functools.partial(run, image) for name, run in runs.items()}
    seconds = time_interleaved(calls, args.repeat, args.device)
    for name, path in row["paths"].items():
        path.update(summary(seconds[name]), speedup=speedup(seconds["plain"], seconds[name]))
        print(f"{config} {name}: {path['median_ms']:.0f} ms, {path['speedup']:.2f} x", flush=True)
    return row


def _predictor(cfg: CfgNode, name: str) -> Predictor:
    cfg = cfg.clone()
    options = PREDICTORS[name]
    for key, value in zip(options[::2], options[1::2], strict=True):
        cfg.MODEL.OPTIMIZE[key] = value
    return Predictor(cfg)


def _record(cfg: CfgNode) -> tuple[Source, float]:
    """The graph as ONNX, which all exports are made of, and the seconds to get there."""
    start = time.perf_counter()
    source = Source(cpu_predictor(cfg), torch.float32)
    _ = source.onnx
    return source, time.perf_counter() - start


def _export(source: Source, name: str, folder: Path) -> Callable[[Any], Any]:
    format, dtype = EXPORTS[name]
    images, calibration = [synthetic_image(128, 192)], None
    if dtype == "int8":
        short = source.predictor.cfg.INPUT.MIN_SIZE_TEST
        calibration = Calibration.of_folder(_calibration_images(folder / "images", short))
        images = []  # the scores of random weights mean nothing, and are no match in 8 bits
    # A copy, so that what is converted for one is not there for the next.
    source, target = copy.copy(source), folder / name
    options: dict[str, Any] = {"calibration": calibration, "report": lambda line: None}
    write_export(source, target, format, dtype, images, **options)
    return load_export(target)


def _calibration_images(folder: Path, short: int) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(CALIBRATION_IMAGES):
        image = synthetic_image(short, short * 3 // 2, seed + 1)
        cv2.imwrite(str(folder / f"{seed}.png"), image)
    return folder
