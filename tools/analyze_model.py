#!/usr/bin/env python
r"""Parameters, operations and activations of a config, compared with the published figures.

    python tools/analyze_model.py                            # Faster R-CNN of all widths
    python tools/analyze_model.py --config htc/htc_hrnetv2p_w18_20e_coco.yaml --json htc.json

Counted by fvcore: one multiply-add is one operation, of convolutions and linear layers (and, in
"all", of every other operator: normalization, sums, activations, resampling, pooling, RoIAlign, at
one operation for each element that they write).

Published: https://github.com/HRNet/HRNet-Object-Detection, Faster R-CNN, "at 1280 x 800".  An input
of 1216 x 800 (an image of 1200 x 800, padded), 512 proposals, and units of 2^30 and 2^20 reproduce
those figures to 0.25 for all four widths, so these are the defaults and units here; --size 800 1280
--proposals 1000 gives what the model computes by default on the larger image.
"""

import argparse
import json
import logging
import sys
from collections import Counter

import torch
from detectron2.utils.analysis import FlopCountAnalysis
from tabulate import tabulate
from torch import nn

from hrnet_d2 import model_zoo
from hrnet_d2.benchmark import synthetic
from hrnet_d2.modeling import build_model

# Parameters (units of 2^20) and operations (units of 2^30) by config.
PUBLISHED = {
    "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml": (26.2, 159.1),
    "faster_rcnn/faster_rcnn_hrnetv2p_w32_1x_coco.yaml": (45.0, 245.3),
    "faster_rcnn/faster_rcnn_hrnetv2p_w40_1x_coco.yaml": (60.5, 314.9),
    "faster_rcnn/faster_rcnn_hrnetv2p_w48_1x_coco.yaml": (79.4, 399.1),
}
PRODUCTS = {"conv", "linear", "matmul", "bmm", "addmm", "einsum"}
# Operators that move or select and compute nothing.
FREE = ("view", "reshape", "slice", "select", "permute", "transpose", "expand", "size", "flatten")


def _elements(inputs, outputs) -> int:
    """One operation for each element written."""
    total = 0
    for value in outputs:
        sizes = value.type().sizes() if value.isCompleteTensor() else None
        if sizes is not None:
            count = 1
            for size in sizes:
                count *= size
            total += count
    return total


def _handlers() -> dict:
    operators = (
        "add add_ sub mul mul_ div relu relu_ clamp clamp_min sigmoid exp softmax cat sum mean "
        "upsample_nearest2d upsample_bilinear2d max_pool2d avg_pool2d adaptive_avg_pool2d "
        "group_norm"
    )
    handlers = {f"aten::{name}": _elements for name in operators.split()}
    return {**handlers, "torchvision::roi_align": _elements}


def _products(operators: Counter) -> float:
    """Operations (2^30) of the operators that multiply matrices."""
    return sum(n for op, n in operators.items() if op in PRODUCTS) / 2**30


def _activations(model: nn.Module, inputs: list[dict]) -> int:
    """Elements that convolutions and linear layers write."""
    total = 0

    def hook(module, _, output):
        nonlocal total
        total += output.numel()

    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, layers)]
    model(inputs)
    for handle in handles:
        handle.remove()
    return total


def analyze(
    config: str, size: tuple[int, int] = (800, 1216), opts: list | None = None, proposals: int = 512
) -> dict:
    """Figures of a config on one image.

    Args:
        config: as under ``configs/``.
        size: (height, width) of the image, the network's input.
        opts: KEY VALUE ... on top of the config.
        proposals: regions that two-stage heads process.

    Returns:
        "parameters" (2^20), "operations" (2^30; convolutions, linear layers and matrix products),
        "operations_all" (every operator), "activations" (2^20; outputs of convolutions and linear
        layers), "by_part" (operations), "skipped" (operators without a count, by name), and
        the published figures.
    """
    torch.manual_seed(0)
    options = ["MODEL.DEVICE", "cpu", "MODEL.RPN.POST_NMS_TOPK_TEST", str(proposals)]
    cfg = model_zoo.load_config(config, [*options, *(opts or [])])
    model = build_model(cfg).eval()
    inputs = [synthetic.synthetic_input(*size)]
    synthetic.calibrate_random_weights(model, inputs)
    with torch.no_grad():
        activations = _activations(model, inputs)
        counted = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False)
        counted = counted.uncalled_modules_warnings(False).tracer_warnings("none")
        counted.set_op_handle(**_handlers())
        by_module = counted.by_module_and_operator()
    parts = {}
    for part in ("backbone.bottom_up", "backbone", "proposal_generator", "roi_heads", "head"):
        # The tracer's wrapper holds the detector as "model".
        if f"model.{part}" in by_module:
            parts[part] = round(_products(by_module[f"model.{part}"]), 2)
    skipped = Counter(counted.unsupported_ops())
    skipped = {op: n for op, n in skipped.items() if not any(f in op for f in FREE)}
    published = PUBLISHED.get(config, (None, None))
    return {
        "config": config,
        "size": list(size),
        "proposals": proposals,
        "parameters": round(sum(p.numel() for p in model.parameters()) / 2**20, 2),
        "published_parameters": published[0],
        "operations": round(_products(by_module[""]), 3),
        "published_operations": published[1],
        "operations_all": round(sum(by_module[""].values()) / 2**30, 3),
        "activations": round(activations / 2**20, 1),
        "by_part": parts,
        "skipped": skipped,
    }


def main(argv=None) -> list[dict]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="+", default=list(PUBLISHED), help="as under configs/")
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1216], help="height, width")
    parser.add_argument("--proposals", type=int, default=512, help="of two-stage models")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    args = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    rows = [analyze(config, tuple(args.size), args.opts, args.proposals) for config in args.config]
    columns = ["config", "parameters", "published_parameters", "operations", "published_operations"]
    columns += ["operations_all", "activations"]
    print(tabulate([[row[c] for c in columns] for row in rows], columns, tablefmt="pipe"))
    for row in rows:
        print(row["config"], "by part:", row["by_part"], "not counted:", row["skipped"])
    if args.json:
        with open(args.json, "w") as f:
            report = {
                "task": "analyze",
                "command": " ".join(["python tools/analyze_model.py", *words]),
            }
            json.dump({**report, "results": rows}, f, indent=1)
            f.write("\n")
    return rows


if __name__ == "__main__":
    main()
