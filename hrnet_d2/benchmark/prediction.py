"""How fast ``hrnet-d2 predict`` goes through a folder, and what the network's share of it is."""

import argparse
import contextlib
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode

from hrnet_d2 import model_zoo
from hrnet_d2.data.datasets.shapes import THING_CLASSES, draw
from hrnet_d2.engine import Predictor
from hrnet_d2.prediction import Detector
from hrnet_d2.prediction.options import Options, default_streams
from hrnet_d2.prediction.run import predict
from hrnet_d2.prediction.task import Task

from .inference import load_model
from .measuring import resident_memory

__all__ = ["DEFAULT_IMAGES", "model_config", "run_prediction", "write_pictures"]

SEED = 7
DEFAULT_IMAGES = 1000
WARM_UP = 32  # images


def write_pictures(folder: Path, count: int, height: int, width: int) -> int:
    """Draw built-in pictures as JPEG files; returns their bytes."""
    size = 0
    for index in range(count):
        image = cv2.resize(draw(SEED, index)[0], (width, height), interpolation=cv2.INTER_LINEAR)
        path = folder / f"{index:05d}.jpg"
        path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        size += path.stat().st_size
    return size


@contextlib.contextmanager
def sampled_memory(seconds: float = 0.2) -> Iterator[list[int]]:
    """Bytes that the process takes, again and again while the body runs."""
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(seconds):
            samples.append(resident_memory())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def run_prediction(args: argparse.Namespace) -> list[dict]:
    """A row for each config and number of streams, run in turn ``args.repeat`` times."""
    rows = []
    count = args.images or DEFAULT_IMAGES
    for config in args.config:
        with tempfile.TemporaryDirectory() as folder:
            pictures, few = Path(folder, "pictures"), Path(folder, "few")
            pictures.mkdir()
            few.mkdir()
            size = write_pictures(pictures, count, *args.size)
            write_pictures(few, min(count, WARM_UP), *args.size)
            predictor = Predictor(model_config(args, config, Path(folder)))
            choices = args.streams or sorted({1, default_streams(args.device == "cpu")})
            measured: dict[int, list[dict]] = {n: [] for n in choices}
            for streams in choices:
                _measure(predictor, args, few, Path(folder, f"warm{streams}"), streams)
            for repetition in range(args.repeat):
                for streams in choices:
                    output = Path(folder, f"out{streams}-{repetition}")
                    measured[streams].append(_measure(predictor, args, pictures, output, streams))
        for streams, results in measured.items():
            best = max(results, key=lambda result: result["images_per_second"])
            row = {
                "config": config,
                "images": count,
                "size": args.size,
                "dtype": predictor.cfg.MODEL.OPTIMIZE.DTYPE,
                "formats": args.formats,
                "streams": streams,
                "threads": torch.get_num_threads(),
                "batch_size": args.batch_size,
                "bytes_of_an_image": size // count,
                "all_images_per_second": [r["images_per_second"] for r in results],
                **best,
            }
            rows.append(row)
            print(
                f"{config}, {count} images of {args.size[1]} x {args.size[0]}, {streams} streams: "
                f"{row['images_per_second']} images/s, {row['cpu_ms_per_image']} ms of CPU each, "
                f"network {row['network_share']:.0%} of the time, "
                f"peak {row['peak_memory_bytes'] / 2**20:.0f} MiB, memory of the last quarter "
                f"{row['growth_bytes'] / 2**20:+.1f} MiB against the second"
            )
    return rows


def model_config(args: argparse.Namespace, config: str, folder: Path) -> CfgNode:
    """The config with the weights to measure: random ones, written to ``folder``, if none given."""
    weights = args.weights
    if not weights:
        weights = str(folder / "random.pth")
        torch.save({"model": load_model(args, config).state_dict()}, weights)
    options = ["MODEL.DEVICE", args.device, *args.opts, "MODEL.WEIGHTS", weights]
    return model_zoo.load_config(config, options)


def _measure(
    predictor: Predictor, args: argparse.Namespace, pictures: Path, output: Path, streams: int
) -> dict[str, Any]:
    detector = Detector(predictor, batch_size=args.batch_size)
    task = Task([str(pictures)], output, args.formats.split(","))
    cfg = predictor.cfg
    options = Options(
        workers=args.workers,
        streams=streams,
        backend=cfg.INPUT.BACKEND,
        max_pixels=cfg.INPUT.MAX_PIXELS,
    )
    metadata = predictor.metadata
    if not metadata.get("thing_classes"):
        metadata.set(thing_classes=THING_CLASSES)
    cpu = time.process_time()
    with sampled_memory() as memory, contextlib.redirect_stderr(io.StringIO()):
        summary = predict(detector, metadata, task, options)
    if summary.signal:  # which a run of predict survives
        raise KeyboardInterrupt
    quarter = max(1, len(memory) // 4)
    second, last = memory[quarter : 2 * quarter], memory[-quarter:]
    written = sum(
        os.path.getsize(os.path.join(f, name)) for f, _, names in os.walk(output) for name in names
    )
    return {
        "images_per_second": round(summary.images / summary.seconds, 2),
        "seconds": round(summary.seconds, 2),
        "network_share": round(summary.network_seconds / (streams * summary.seconds), 3),
        "cpu_ms_per_image": round((time.process_time() - cpu) / summary.images * 1e3, 1),
        "peak_memory_bytes": max(memory, default=resident_memory()),
        "growth_bytes": max(last, default=0) - max(second, default=0),
        "bytes_written_per_image": written // max(1, summary.images),
    }
