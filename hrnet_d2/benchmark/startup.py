"""Time and memory until the first detections, in a fresh process."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from .inference import load_model

__all__ = ["run_startup"]

CHILD = """
import json, sys, time
start = time.perf_counter()
import hrnet_d2
imported = time.perf_counter()
from hrnet_d2.benchmark.measuring import peak_memory, resident_memory
from hrnet_d2.benchmark.synthetic import synthetic_image
from hrnet_d2.engine import Predictor
weights, config, height, width, *opts = sys.argv[1:]
image = synthetic_image(int(height), int(width))
cfg = hrnet_d2.model_zoo.load_config(config, ["MODEL.WEIGHTS", weights, *opts])
before, begin = resident_memory(), time.perf_counter()
predictor = Predictor(cfg)
loaded = time.perf_counter()
after_loading = peak_memory("cpu")
predictor(image)
predicted = time.perf_counter()
print(json.dumps({
    "import_s": round(imported - start, 2),
    "load_s": round(loaded - begin, 2),
    "first_image_s": round(predicted - loaded, 2),
    "load_bytes": after_loading - before,
    "peak_memory_bytes": peak_memory("cpu"),
}))
"""


def run_startup(args: argparse.Namespace) -> list[dict]:
    """A row for each config: medians of fresh processes, that load a checkpoint from a file."""
    rows = []
    for config in args.config:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.pth"
            model = load_model(args, config)
            parameters = sum(tensor.numel() for tensor in model.state_dict().values())
            torch.save({"model": model.state_dict()}, weights)
            del model
            size = [str(side) for side in args.size]
            opts = ["MODEL.DEVICE", args.device, *args.opts]
            command = [sys.executable, "-c", CHILD, str(weights), config, *size, *opts]
            runs = [_run(command) for _ in range(args.repeat)]
            row = {"config": config, "size": args.size, "parameters": parameters}
            row["file_bytes"] = weights.stat().st_size
            row.update({key: statistics.median(run[key] for run in runs) for key in runs[0]})
        rows.append(row)
        print(row, flush=True)
    return rows


def _run(command: list[str]) -> dict[str, float]:
    found = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return result
