"""Time of a detector's forward pass: plain against optimized, and how it grows."""

import argparse
import functools
import time
from typing import Any

import torch
from detectron2.structures import Instances

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.devices import set_float32_precision
from hrnet_d2.inference.optimize import optimize
from hrnet_d2.modeling import build_model

from .measuring import peak_memory, speedup, summary, time_interleaved, timed_parts
from .synthetic import calibrate_random_weights, synthetic_input

__all__ = ["CLOCKS", "VARIANTS", "run_growth", "run_inference"]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# Arguments of ``optimize`` for what is measured on top of its defaults.
VARIANTS: dict[str, dict[str, Any]] = {
    "fold": {"channels_last": False, "winograd": False},
    "direct": {"winograd": False},
    "channels-last": {"channels_last": True},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "openvino": {"backend": "openvino"},
    "openvino-bf16": {"backend": "openvino", "dtype": torch.bfloat16},
    "compile": {"compile": True},
    "cuda-graphs": {"cuda_graphs": True},
    "bf16+cuda-graphs": {"dtype": torch.bfloat16, "cuda_graphs": True},
    "fp16+cuda-graphs": {"dtype": torch.float16, "cuda_graphs": True},
    "compile+cuda-graphs": {"compile": True, "cuda_graphs": True},
    "bf16+compile": {"dtype": torch.bfloat16, "compile": True},
    "bf16+compile+cuda-graphs": {"dtype": torch.bfloat16, "compile": True, "cuda_graphs": True},
}
GROWTH: dict[str, list[Any]] = {
    "megapixels": [(400, 608), (608, 896), (800, 1216), (1120, 1696)],
    "proposals": [100, 300, 1000, 2000],
    "batch": [1, 2, 4],
}


def load_model(args: argparse.Namespace, config: str) -> Any:
    """The plain model in eval mode, with random weights unless ``args.weights`` names a file."""
    torch.manual_seed(0)
    cfg = model_zoo.load_config(config, ["MODEL.DEVICE", args.device, *args.opts])
    set_float32_precision(cfg)
    model = build_model(cfg).eval()
    if args.weights:
        Checkpointer(model).load(args.weights)
    else:
        calibrate_random_weights(model, [synthetic_input(*args.size)])
    return model


def difference(plain: Instances, made: Instances) -> dict[str, Any]:
    """How far apart two lists of detections are, in order."""
    same = len(plain) == len(made) and torch.equal(plain.pred_classes, made.pred_classes)
    if not same or not len(plain):
        return {"detections": len(plain), "same_classes": same}
    found: dict[str, Any] = {"detections": len(plain), "same_classes": True}
    boxes = plain.pred_boxes.tensor - made.pred_boxes.tensor
    found["box_px"] = float(boxes.abs().max())
    found["score"] = float((plain.scores - made.scores).abs().max())
    if plain.has("pred_masks"):
        found["mask_px"] = int((plain.pred_masks != made.pred_masks).sum())
    return found


def run_inference(args: argparse.Namespace) -> list[dict]:
    """A row for each config: every path's time, parts, first call and distance from plain."""
    clock = CLOCKS[args.clock]
    rows = []
    for config in args.config:
        model = load_model(args, config)
        models = {"plain": model, "optimized": optimize(model)}
        models.update({name: optimize(model, **VARIANTS[name]) for name in args.variants})
        inputs = [synthetic_input(*args.size, seed=i) for i in range(args.batch)]
        row = {"config": config, "size": args.size, "batch": args.batch, "clock": args.clock}
        row["paths"] = {name: {} for name in models}
        with torch.no_grad():
            outputs = {}
            for name, m in models.items():
                start = time.perf_counter()
                outputs[name] = m(inputs)[0]["instances"].to("cpu")
                # With what is done once: laying out weights, compilation, capture.
                row["paths"][name]["first_call_s"] = round(time.perf_counter() - start, 2)
            calls = {name: functools.partial(m, inputs) for name, m in models.items()}
            seconds = time_interleaved(calls, args.repeat, args.device, clock=clock)
            for name, m in models.items():
                with timed_parts(m, args.device, clock) as parts:
                    start = clock()
                    m(inputs)
                    total = clock() - start
                known = sum(parts.get(k, 0) for k in ("backbone", "proposals", "heads"))
                parts["other"] = total - known
                row["paths"][name].update(
                    **summary(seconds[name]),
                    parts_ms={k: round(v * 1e3, 2) for k, v in parts.items()},
                    difference=difference(outputs["plain"], outputs[name]),
                )
        for name, path in row["paths"].items():
            path["speedup"] = speedup(seconds["plain"], seconds[name])
            path["images_per_second"] = round(args.batch / path["median_ms"] * 1e3, 2)
        row["speedup"] = row["paths"]["optimized"]["speedup"]
        row["peak_memory_bytes"] = peak_memory(args.device)
        print(f"{config}: optimized {row['speedup']:.2f} times as fast as plain")
        for name, path in row["paths"].items():
            times = f"{path['median_ms']:.1f} ms, {path['speedup']:.2f} x"
            print(f"  {name}: {times} {path['parts_ms']} {path['difference']}", flush=True)
        rows.append(row)
    return rows


def run_growth(args: argparse.Namespace) -> list[dict]:
    """A row for each value of each axis of ``GROWTH``: seconds of the plain and optimized path."""
    rows = []
    model = load_model(args, args.config[0])
    fast: Any = optimize(model)
    rpns = [m.proposal_generator for m in (model, fast) if hasattr(m, "proposal_generator")]
    kept = [(dict(rpn.post_nms_topk), dict(rpn.pre_nms_topk)) for rpn in rpns]
    for axis, values in GROWTH.items():
        if axis == "proposals" and not rpns:
            continue
        for value in values:
            size = value if axis == "megapixels" else tuple(args.size)
            batch = value if axis == "batch" else 1
            if axis == "proposals":
                for rpn in rpns:
                    rpn.post_nms_topk[False] = value
                    rpn.pre_nms_topk[False] = max(1000, value)
            inputs = [synthetic_input(*size, seed=i) for i in range(batch)]
            calls = {"plain": lambda i=inputs: model(i), "optimized": lambda i=inputs: fast(i)}
            with torch.no_grad():
                seconds = time_interleaved(calls, args.repeat, args.device)
            x = size[0] * size[1] / 1e6 if axis == "megapixels" else value
            row = {"config": args.config[0], "axis": axis, "value": x}
            row.update({name: summary(s) for name, s in seconds.items()})
            rows.append(row)
            print(axis, x, {n: row[n]["median_ms"] for n in calls}, flush=True)
        for rpn, (post, pre) in zip(rpns, kept, strict=True):
            rpn.post_nms_topk.update(post)
            rpn.pre_nms_topk.update(pre)
    return rows
