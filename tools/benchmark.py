#!/usr/bin/env python
r"""Measure inference, training, data loading and evaluation: the plain path and the fast one.

    python tools/benchmark.py inference --config faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml
    python tools/benchmark.py growth    --config ... --switches plain default --plot growth.png
    python tools/benchmark.py train     --config ... --switches plain default sum+checkpoint
    python tools/benchmark.py curves    --config ... --switches plain default --seeds 1 2
    python tools/benchmark.py data
    python tools/benchmark.py eval      --images 5000

The variants are timed interleaved in one process; figures are medians, with the minimum and the
maximum.  Weights are random unless --weights names a checkpoint, calibrated so that there are many
detections.  --json writes the figures with the command and the environment.
"""

import argparse
import contextlib
import io
import json
import sys

import torch

from hrnet_d2.benchmark import data, evaluation, inference, training
from hrnet_d2.benchmark.measuring import environment
from hrnet_d2.benchmark.plotting import plot_growth


def run_growth(args) -> list[dict]:
    rows = inference.run_growth(args)
    if args.switches:
        rows += training.run_training_memory(args)
    if args.plot:
        plot_growth(rows, args.plot)
    return rows


def run_eval(args) -> list[dict]:
    with contextlib.redirect_stdout(io.StringIO()):
        rows = evaluation.compare_evaluators(args.images)
    for row in rows:
        print(row)
    return rows


TASKS = {
    "inference": inference.run_inference,
    "growth": run_growth,
    "train": training.run_train,
    "curves": training.run_curves,
    "data": data.run_data,
    "eval": run_eval,
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        help="of inference; cpu, with --threads 1, is for a machine that is not quiet",
    )
    parser.add_argument("--weights", help="a checkpoint for inference; random weights without")
    parser.add_argument("--images", type=int, default=5000, help="of the task eval")
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
    args = parser.parse_args(argv)
    if args.task in ("train", "curves") and not args.switches:
        args.switches = ["plain", "default"]
    try:
        for switch in args.switches:
            training.switch_options(switch)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv=None) -> dict:
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    before = environment(args.device)
    rows = TASKS[args.task](args)
    words = sys.argv[1:] if argv is None else argv
    report = {
        "task": args.task,
        "command": " ".join(["python tools/benchmark.py", *words]),
        "environment": before,
        "results": rows,
    }
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)
            f.write("\n")
    return report


if __name__ == "__main__":
    main()
