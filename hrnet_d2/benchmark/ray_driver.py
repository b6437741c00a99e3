"""What the driver of ``hrnet-d2 predict --engine ray`` does for an image: how many it can lead."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from hrnet_d2.prediction.ray_engine import Cluster, predict_on_ray
from hrnet_d2.prediction.task import Task

from .prediction import DEFAULT_IMAGES, model_config, write_pictures

__all__ = ["run_ray"]

ACTORS = (2, 2)
FEW = 10  # times fewer images, whose time is that of starting


def run_ray(args: argparse.Namespace) -> list[dict]:
    """A row for each config: seconds of the driver and of its whole run, on this machine.

    A run on few images is taken off from that on all, so that starting does not count.
    """
    rows = []
    for config in args.config:
        count = args.images or DEFAULT_IMAGES
        with tempfile.TemporaryDirectory() as folder:
            cfg = model_config(args, config, Path(folder))
            few = _measure(cfg, Path(folder), max(1, count // FEW), args.size)
            many = _measure(cfg, Path(folder), count, args.size)
        more = many["images"] - few["images"]
        row = {
            "config": config,
            "size": args.size,
            "actors": ACTORS[0],
            "images": count,
            "seconds": round(many["seconds"], 2),
            "seconds_of_few": round(few["seconds"], 2),
            "driver_cpu_ms_per_image": round((many["cpu"] - few["cpu"]) / more * 1e3, 3),
        }
        rows.append(row)
        print(
            f"{config}: {count} images in {row['seconds']} s by {ACTORS[0]} actors, "
            f"{row['driver_cpu_ms_per_image']} ms of the driver's CPU for each"
        )
    return rows


def _measure(cfg: Any, folder: Path, count: int, size: list[int]) -> dict[str, float]:
    pictures = folder / f"pictures{count}"
    pictures.mkdir()
    write_pictures(pictures, count, *size)
    task = Task([str(pictures)], folder / f"out{count}", ["parquet"])
    start, cpu = time.perf_counter(), time.process_time()
    summary = predict_on_ray(cfg, task, Cluster(actors=ACTORS))
    used = time.process_time() - cpu
    seconds = time.perf_counter() - start
    if summary.images != count or summary.failed:
        raise RuntimeError(f"{summary.images} of {count} images, {summary.failed} failed")
    return {"images": count, "seconds": seconds, "cpu": used}
