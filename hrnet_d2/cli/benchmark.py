r"""Measure inference, training, data loading and evaluation: the plain path and the fast one.

    hrnet-d2 benchmark inference --config faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml
    hrnet-d2 benchmark growth    --config ... --switches plain default --plot growth.png
    hrnet-d2 benchmark train     --config ... --switches plain default sum+checkpoint
    hrnet-d2 benchmark curves    --config ... --switches plain default --seeds 1 2
    hrnet-d2 benchmark data
    hrnet-d2 benchmark eval      --images 5000
    hrnet-d2 benchmark predict   --config quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml \
                                 --size 128 128 --images 1000 --repeat 3
    hrnet-d2 benchmark tiles     --config quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml \
                                 --weights output/demo/model_final.pth --size 4000 6000
    hrnet-d2 benchmark fcos-postprocessing --size 800 1344 --batch 4
    hrnet-d2 benchmark htc-heads           --size 800 1344

The variants are timed interleaved in one process; figures are medians, with the minimum and the
maximum.  Weights are random unless --weights names a checkpoint, calibrated so that there are many
detections.  --json writes the figures with the command and the environment.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hrnet_d2.benchmark import (
    data,
    evaluation,
    fcos_postprocessing,
    htc_heads,
    inference,
    prediction,
    tiles,
    training,
)
from hrnet_d2.benchmark.measuring import environment
from hrnet_d2.benchmark.plotting import plot_growth
from hrnet_d2.config_file import ConfigError
from hrnet_d2.file_io import atomic_write

__all__ = ["TASKS", "main", "measure", "parse_args"]


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
    "growth": run_growth,
    "train": training.run_train,
    "curves": training.run_curves,
    "data": data.run_data,
    "eval": run_eval,
    "predict": prediction.run_prediction,
    "tiles": tiles.run_tiles,
    "fcos-postprocessing": fcos_postprocessing.run_fcos_postprocessing,
    "htc-heads": htc_heads.run_htc_heads,
}


def parse_args(arguments: Sequence[str], prog: str = "hrnet-d2 benchmark") -> argparse.Namespace:
    """The arguments of all tasks; a task reads those that it needs."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=TASKS)
    default = ["faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml"]
    parser.add_argument("--config", nargs="+", default=default, help="as under configs/")
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1200], help="height, width")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument(
        "--clock",
        choices=inference.CLOCKS,
        default="wall",
        help="of inference; cpu, with --threads 1, suits a machine that runs other jobs too",
    )
    parser.add_argument("--weights", help="a checkpoint for inference; default: random weights")
    parser.add_argument(
        "--images", type=int, help="of the tasks eval (default 5000) and predict (default 1000)"
    )
    parser.add_argument(
        "--streams", nargs="+", type=int, help="of the task predict (default: 1, and the default)"
    )
    parser.add_argument("--tile", type=int, default=800, help="pixels, of the task tiles")
    parser.add_argument("--overlap", type=float, default=0.2, help="of the task tiles")
    parser.add_argument("--workers", type=int, default=4, help="of the task predict")
    parser.add_argument("--batch-size", type=int, help="of the task predict (default: by the size)")
    parser.add_argument("--formats", default="jsonl", help="of the task predict, joined by commas")
    parser.add_argument(
        "--objects",
        nargs="+",
        type=int,
        default=[100, 1000, 5000],
        help="candidates of a level, of the task fcos-postprocessing",
    )
    parser.add_argument("--proposals", type=int, default=1000, help="of the task htc-heads")
    parser.add_argument("--plot", help="PNG of the task growth")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--variants", nargs="*", default=[], choices=inference.VARIANTS)
    parser.add_argument(
        "--switches",
        nargs="+",
        default=[],
        help=f"of training, several joined by +: {', '.join(training.SWITCHES)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="of the task curves")
    parser.add_argument("--iterations", type=int, default=100, help="of the task curves")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    args = parser.parse_args(arguments)
    if args.task in ("train", "curves") and not args.switches:
        args.switches = ["plain", "default"]
    try:
        for switch in args.switches:
            training.switch_options(switch)
    except ValueError as error:
        parser.error(str(error))
    return args


def measure(arguments: Sequence[str], prog: str = "hrnet-d2 benchmark") -> dict[str, Any]:
    """Run a task; print its figures, and write them to a file if asked to.

    Returns:
        "task", "command", "environment" and "results", as written with --json.

    Raises:
        ConfigError: if a GPU is asked for that is not there.
    """
    args = parse_args(arguments, prog)
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device is {args.device} but there is no GPU: use --device cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    before = environment(args.device)
    rows = TASKS[args.task](args)
    report = {
        "task": args.task,
        "command": " ".join(["hrnet-d2 benchmark", *arguments]),
        "environment": before,
        "results": rows,
    }
    if args.json:
        with atomic_write(args.json) as part, open(part, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    return report


def main(arguments: Sequence[str], prog: str) -> int:
    """Run a task."""
    measure(arguments, prog)
    return 0
