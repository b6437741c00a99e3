"""``hrnet-d2 benchmark TASK``: measure the plain path and the fast one."""

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from typing import Any

import torch

from hrnet_d2.benchmark import (
    data,
    evaluation,
    fcos_postprocessing,
    htc_heads,
    inference,
    loading,
    loop,
    prediction,
    ray_driver,
    runtimes,
    serving,
    startup,
    tiles,
    training,
)
from hrnet_d2.benchmark.measuring import environment
from hrnet_d2.benchmark.plotting import plot_growth
from hrnet_d2.config_file import ConfigError
from hrnet_d2.file_io import atomic_write

__all__ = ["TASKS", "main", "measure"]


def run_growth(args: argparse.Namespace) -> list[dict]:
    rows = inference.run_growth(args)
    if args.switches:
        rows += training.run_training_memory(args)
    if args.plot:
        plot_growth(rows, args.plot)
    return rows


def run_eval(args: argparse.Namespace) -> list[dict]:
    with contextlib.redirect_stdout(io.StringIO()):
        rows = evaluation.compare_evaluators(args.images or 5000)
    for row in rows:
        print(row)
    return rows


TASKS: dict[str, Callable[[argparse.Namespace], list[dict]]] = {
    "inference": inference.run_inference,
    "runtimes": runtimes.run_runtimes,
    "startup": startup.run_startup,
    "growth": run_growth,
    "train": training.run_train,
    "curves": training.run_curves,
    "loop": loop.run_loop,
    "data": data.run_data,
    "loader": loading.run_loading,
    "predict": prediction.run_prediction,
    "ray": ray_driver.run_ray,
    "tiles": tiles.run_tiles,
    "eval": run_eval,
    "serve": serving.run_serve,
    "fcos-postprocessing": fcos_postprocessing.run_fcos_postprocessing,
    "htc-heads": htc_heads.run_htc_heads,
}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run a task; print its figures, and write them to a file if asked to.

    Returns:
        "task", "command", "environment" and "results", as written with --json.

    Raises:
        ConfigError: if a GPU is asked for that is not there.
    """
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.task in ("train", "curves") and not args.switches:
        args.switches = ["plain", "default"]
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device is {args.device} but there is no GPU: use --device cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    before = environment(args.device)
    rows = TASKS[args.task](args)
    report = {
        "task": args.task,
        "command": args.command,
        "environment": before,
        "results": rows,
    }
    if args.json:
        with atomic_write(args.json) as part, open(part, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    return report


def main(args: argparse.Namespace, prog: str) -> int:
    """Run a task."""
    measure(args)
    return 0
