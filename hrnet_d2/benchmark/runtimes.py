"""Time from an image to its detections, by everything that can run a detector on this machine."""

import argparse
import functools
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from hrnet_d2 import model_zoo
from hrnet_d2.engine import Predictor
from hrnet_d2.export import export
from hrnet_d2.export import load as load_export

from .inference import difference, load_model
from .measuring import speedup, summary, time_interleaved
from .synthetic import synthetic_image

__all__ = ["RUNTIMES", "run_runtimes"]

# Options of MODEL.OPTIMIZE of what Predictor runs, and arguments of ``export``.
PREDICTORS: dict[str, list[Any]] = {
    "plain": ["ENABLED", False],
    "optimized": [],
    "bf16": ["DTYPE", "bfloat16"],
    "fp16": ["DTYPE", "float16"],
    "openvino-backend": ["BACKEND", "openvino"],
    "openvino-backend-bf16": ["BACKEND", "openvino", "DTYPE", "bfloat16"],
}
EXPORTS: dict[str, dict[str, Any]] = {
    "openvino": {"format": "openvino"},
    "openvino-bf16": {"format": "openvino", "dtype": "bfloat16"},
    "openvino-int8": {"format": "openvino"},
    "onnxruntime": {"format": "onnx"},
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
    for name in names:
        start = time.perf_counter()
        runs[name] = _runtime(cfg, name, folder)
        ready = time.perf_counter()
        outputs[name] = runs[name](image)["instances"].to("cpu")
        first = time.perf_counter()
        row["paths"][name] = {
            "ready_s": round(ready - start, 2),
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


def _runtime(cfg: Any, name: str, folder: Path) -> Callable[[Any], Any]:
    if name in PREDICTORS:
        cfg = cfg.clone()
        options = PREDICTORS[name]
        for key, value in zip(options[::2], options[1::2], strict=True):
            cfg.MODEL.OPTIMIZE[key] = value
        return Predictor(cfg)
    arguments = dict(EXPORTS[name], images=[synthetic_image(128, 192)])
    if name == "openvino-int8":
        arguments["calibrate"] = _calibration_images(folder / "images", cfg.INPUT.MIN_SIZE_TEST)
        # The scores of random weights mean nothing, and are no match in 8 bits.
        arguments["images"] = []
    target = folder / name
    export(cfg, target, report=lambda line: None, **arguments)
    return load_export(target)


def _calibration_images(folder: Path, short: int) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(CALIBRATION_IMAGES):
        image = synthetic_image(short, short * 3 // 2, seed + 1)
        cv2.imwrite(str(folder / f"{seed}.png"), image)
    return folder
