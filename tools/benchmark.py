#!/usr/bin/env python
r"""Measure inference, training, data loading and evaluation: the plain path and the fast one.

    python tools/benchmark.py inference --config faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml
    python tools/benchmark.py growth    --config ... --plot growth.png
    python tools/benchmark.py train     --config ... --switches plain bf16 checkpoint
    python tools/benchmark.py data
    python tools/benchmark.py eval      --images 5000

Both paths alternate in one process; figures are medians, with the least and the most.  Weights are
random unless --weights names a checkpoint, scaled so that detections are many.  --json writes the
figures with the command and the environment.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import statistics
import sys
import tempfile
import time

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.engine import speed
from hrnet_d2.engine.coco_synthetic import compare_evaluators
from hrnet_d2.optimize import optimize

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
GROWTH = {
    "megapixels": [(400, 608), (608, 896), (800, 1216), (1120, 1696)],
    "proposals": [100, 300, 1000, 2000],
    "batch": [1, 2, 4],
}


def load_model(args, config: str) -> tuple:
    """(config, plain model in eval mode)."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config(config)
    cfg.defrost()
    cfg.MODEL.DEVICE = args.device
    cfg.merge_from_list(args.opts)
    model = build_model(cfg).eval()
    if args.weights:
        Checkpointer(model).load(args.weights)
    else:
        speed.spread_outputs(model, [speed.synthetic_input(*args.size)])
    return cfg, model


def variants(args, model) -> dict:
    """Name to model: "plain", "optimized" and what is asked for on top."""
    made = {"plain": model, "optimized": optimize(model)}
    for name in args.variants:
        made[name] = {
            "fold": lambda: optimize(model, channels_last=False, winograd=False),
            "direct": lambda: optimize(model, winograd=False),
            "bf16": lambda: optimize(model, dtype=torch.bfloat16),
            "fp16": lambda: optimize(model, dtype=torch.float16),
            "compile": lambda: optimize(model, compile=True),
            "cuda-graphs": lambda: optimize(model, cuda_graphs=True),
        }[name]()
    return made


def difference(plain, made) -> dict:
    """How far apart two lists of detections are, in order."""
    same = len(plain) == len(made) and torch.equal(plain.pred_classes, made.pred_classes)
    if not same or not len(plain):
        return {"detections": len(plain), "same_classes": same}
    found = {"detections": len(plain), "same_classes": True}
    boxes = plain.pred_boxes.tensor - made.pred_boxes.tensor
    found["box_px"] = float(boxes.abs().max())
    found["score"] = float((plain.scores - made.scores).abs().max())
    if plain.has("pred_masks"):
        found["mask_px"] = int((plain.pred_masks != made.pred_masks).sum())
    return found


def run_inference(args) -> list[dict]:
    rows = []
    for config in args.config:
        _, model = load_model(args, config)
        models = variants(args, model)
        inputs = [speed.synthetic_input(*args.size, seed=i) for i in range(args.batch)]
        with torch.no_grad():
            outputs = {name: m(inputs)[0]["instances"] for name, m in models.items()}
            calls = {name: functools.partial(m, inputs) for name, m in models.items()}
            clock = CLOCKS[args.clock]
            seconds = speed.alternate(calls, args.repeat, args.device, clock=clock)
            row = {"config": config, "size": args.size, "batch": args.batch, "paths": {}}
            row["clock"] = args.clock
            for name, m in models.items():
                with speed.timed_parts(m, args.device, clock) as parts:
                    start = clock()
                    m(inputs)
                    total = clock() - start
                known = sum(parts.get(k, 0) for k in ("backbone", "proposals", "heads"))
                parts["other"] = total - known
                row["paths"][name] = {
                    **speed.summary(seconds[name]),
                    "parts_ms": {k: round(v * 1e3, 1) for k, v in parts.items()},
                    "difference": difference(outputs["plain"], outputs[name]),
                }
        pairs = zip(seconds["plain"], seconds["optimized"], strict=True)
        row["speedup"] = round(statistics.median(a / b for a, b in pairs), 3)
        row["peak_memory_bytes"] = speed.peak_memory(args.device)
        print(f"{config}: optimized {row['speedup']:.2f} times as fast as plain")
        for name, path in row["paths"].items():
            print(f"  {name}: {path['median_ms']:.0f} ms {path['parts_ms']} {path['difference']}")
        rows.append(row)
    return rows


def run_growth(args) -> list[dict]:
    rows = []
    _, model = load_model(args, args.config[0])
    fast = optimize(model)
    for axis, values in GROWTH.items():
        for value in values:
            size = value if axis == "megapixels" else tuple(args.size)
            batch = value if axis == "batch" else 1
            if axis == "proposals":
                if not hasattr(model, "proposal_generator"):
                    continue
                for m in (model, fast):
                    m.proposal_generator.post_nms_topk[False] = value
                    m.proposal_generator.pre_nms_topk[False] = max(1000, value)
            inputs = [speed.synthetic_input(*size, seed=i) for i in range(batch)]
            calls = {"plain": lambda i=inputs: model(i), "optimized": lambda i=inputs: fast(i)}
            with torch.no_grad():
                seconds = speed.alternate(calls, args.repeat, args.device)
            x = size[0] * size[1] / 1e6 if axis == "megapixels" else value
            row = {"config": args.config[0], "axis": axis, "value": x}
            row.update({name: speed.summary(s) for name, s in seconds.items()})
            rows.append(row)
            print(axis, x, {n: row[n]["median_ms"] for n in calls}, flush=True)
        for m in (model, fast):
            if hasattr(m, "proposal_generator"):
                m.proposal_generator.post_nms_topk[False] = 1000
    if args.plot:
        plot_growth(rows, args.plot)
    return rows


def plot_growth(rows: list[dict], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes_names = [axis for axis in GROWTH if any(row["axis"] == axis for row in rows)]
    figure, axes = pyplot.subplots(1, len(axes_names), figsize=(4 * len(axes_names), 3.2))
    for axis_name, axes_ in zip(axes_names, np.atleast_1d(axes), strict=True):
        of_axis = [row for row in rows if row["axis"] == axis_name]
        for name in ("plain", "optimized"):
            seconds = [row[name]["median_ms"] / 1e3 for row in of_axis]
            axes_.plot([row["value"] for row in of_axis], seconds, marker="o", label=name)
        axes_.set_xlabel(axis_name)
        axes_.set_ylabel("seconds")
        axes_.set_ylim(bottom=0)
        axes_.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def run_train(args) -> list[dict]:
    rows = []
    for config in args.config:
        steps, held = {}, {}
        for switch in args.switches:
            opts = {"checkpoint": ["stage2", "stage3", "stage4"]}.get(switch, [])
            torch.manual_seed(0)
            cfg = model_zoo.get_config(config)
            cfg.defrost()
            cfg.MODEL.DEVICE = args.device
            cfg.MODEL.HRNETV2P.ACT_CHECKPOINT = opts
            cfg.merge_from_list(args.opts)
            model = build_model(cfg)
            speed.spread_outputs(model, [speed.synthetic_input(*args.size)])
            model.train()
            if switch == "channels-last":
                model = model.to(memory_format=torch.channels_last)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
            batch = [
                speed.synthetic_input(*args.size, objects=8, seed=i) for i in range(args.batch)
            ]
            dtype = DTYPES.get(switch)

            def forward(model=model, batch=batch, dtype=dtype):
                device = torch.device(args.device).type
                with EventStorage(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                    return sum(model(batch).values())

            def step(forward=forward, optimizer=optimizer):
                optimizer.zero_grad(set_to_none=True)
                forward().backward()
                optimizer.step()

            steps[switch], held[switch] = step, speed.saved_for_backward(forward)
        seconds = speed.alternate(steps, args.repeat, args.device)
        for switch in args.switches:
            row = {"config": config, "switch": switch, "size": args.size, "batch": args.batch}
            row.update(speed.summary(seconds[switch]), saved_for_backward_bytes=held[switch])
            row["peak_memory_bytes"] = speed.peak_memory(args.device)
            rows.append(row)
            print(switch, row["median_ms"], "ms an iteration,", held[switch] / 2**30, "GiB saved")
    return rows


def run_data(args) -> list[dict]:
    """Milliseconds to read and to resize one photograph-sized JPEG (480 x 640)."""
    from hrnet_d2.data import InferenceInput, read_image

    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "image.jpg")
        cv2.imwrite(path, speed.synthetic_image(480, 640))
        image = cv2.imread(path)
        calls = {"read": lambda: read_image(path, "BGR")}
        for backend in ("opencv", "detectron2"):
            own = cfg.clone()
            own.defrost()
            own.INPUT.BACKEND = backend
            calls[f"resize_{backend}"] = functools.partial(InferenceInput(own), image)
        for name, s in speed.alternate(calls, args.repeat * 10, "cpu").items():
            rows.append({"step": name, **speed.summary(s)})
            print(name, rows[-1]["median_ms"], "ms an image")
    return rows


def run_eval(args) -> list[dict]:
    with contextlib.redirect_stdout(io.StringIO()):
        rows = compare_evaluators(args.images)
    for row in rows:
        print(row)
    return rows


TASKS = {
    "inference": run_inference,
    "growth": run_growth,
    "train": run_train,
    "data": run_data,
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
        choices=CLOCKS,
        default="wall",
        help="of inference; cpu, with --threads 1, is for a machine that is not quiet",
    )
    parser.add_argument("--weights", help="a checkpoint; random weights without")
    parser.add_argument("--images", type=int, default=5000, help="of the task eval")
    parser.add_argument("--plot", help="PNG of the task growth")
    parser.add_argument("--json", help="write the figures here")
    extra = ["fold", "direct", "bf16", "fp16", "compile", "cuda-graphs"]
    parser.add_argument("--variants", nargs="*", default=[], choices=extra)
    switches = ["plain", "channels-last", "bf16", "checkpoint"]
    parser.add_argument("--switches", nargs="+", default=["plain"], choices=switches)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    return parser.parse_args(argv)


def main(argv=None) -> dict:
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    before = speed.environment(args.device)
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
