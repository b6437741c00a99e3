#!/usr/bin/env python
"""Hold the reference cases of tests/reference on a GPU, in every way that a GPU can compute them.

python tools/check_gpu.py --json benchmarks/exactness_h100.json

The weights and what MMDetection computes from them are those of the tests.  The photograph goes
through ``Predictor`` with keys of ``MODEL.OPTIMIZE``; losses and gradients are of the plain model.
Ends with 1 if a case is not within the tolerance of its type.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CASES = {
    "faster_rcnn_hrnetv2p_w18": "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
    "mask_rcnn_hrnetv2p_w32": "mask_rcnn/mask_rcnn_hrnetv2p_w32_1x_coco.yaml",
    "cascade_rcnn_hrnetv2p_w18": "cascade_rcnn/cascade_rcnn_hrnetv2p_w18_20e_coco.yaml",
    "cascade_mask_rcnn_hrnetv2p_w18": (
        "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml"
    ),
    "htc_hrnetv2p_w18": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "htc_x101_64x4d_fpn": "htc/htc_x101_64x4d_fpn_28e_coco.yaml",
    "fcos_hrnetv2p_w18": "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml",
    "fcos_hrnetv2p_w48": "fcos/fcos_hrnetv2p_w48_gn-head_mstrain_640-800_4x4_2x_coco.yaml",
    "fcos_w18_2020_03": "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml",
    "mmdet1/v1_faster_rcnn_w48": "faster_rcnn/faster_rcnn_hrnetv2p_w48_2x_coco.yaml",
    "mmdet1/v1_cascade_mask_rcnn_w18": (
        "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml"
    ),
    "mmdet1/v1_htc_w18": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "mmdet1/v1_fcos_w48": "fcos/fcos_hrnetv2p_w48_gn-head_mstrain_640-800_4x4_2x_coco.yaml",
}
FULL = ["FLOAT32_PRECISION", "highest"]
HALF, BRAIN = ["MODEL.OPTIMIZE.DTYPE", "float16"], ["MODEL.OPTIMIZE.DTYPE", "bfloat16"]
GRAPHS, COMPILE = ["MODEL.OPTIMIZE.CUDA_GRAPHS", True], ["MODEL.OPTIMIZE.COMPILE", True]
# Keys, and the type whose tolerance holds.
VARIANTS = {
    "plain": ([*FULL, "MODEL.OPTIMIZE.ENABLED", False], "float32"),
    "optimized": (FULL, "float32"),
    "channels-first": ([*FULL, "MODEL.OPTIMIZE.CHANNELS_LAST", "off"], "float32"),
    "cuda-graphs": ([*FULL, *GRAPHS], "float32"),
    "compile": ([*FULL, *COMPILE], "float32"),
    "tf32": (["MODEL.OPTIMIZE.ENABLED", False], "tf32"),
    "tf32 cuda-graphs": (GRAPHS, "tf32"),
    "fp16": (HALF, "float16"),
    "fp16 cuda-graphs": ([*HALF, *GRAPHS], "float16"),
    "bf16": (BRAIN, "bfloat16"),
    "bf16 cuda-graphs": ([*BRAIN, *GRAPHS], "bfloat16"),
    "bf16 compile cuda-graphs": ([*BRAIN, *GRAPHS, *COMPILE], "bfloat16"),
}
# Of the detections, how many must be the same within the type's tolerance. The weights of the cases
# are untrained, so that many scores and overlaps are nearly equal: rounding by 1e-3 lets proposals
# change places.
SHARES = {"float32": 0.98, "tf32": 0.75, "float16": 0.75, "bfloat16": 0.7}
# Largest error of a level of the neck, of its largest value.
NECK = {"float32": 1e-3, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}
TRAINING = {"fp32": FULL, "tf32": []}


def check(case_name: str, variants: list[str], device: str) -> list[dict]:
    """A row for each variant of a case."""
    import torch

    from hrnet_d2 import Predictor, model_zoo
    from hrnet_d2.export.checking import TOLERANCES, match
    from hrnet_d2.export.runtime import Detections
    from tests.parity import feature_error, load_case

    case = load_case(case_name)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = case.save_checkpoint(os.path.join(folder, "epoch_12.pth"))
        for name in variants:
            options, dtype = VARIANTS[name]
            options = [*map(str, options), "MODEL.DEVICE", device, "MODEL.WEIGHTS", path]
            cfg = model_zoo.load_config(CASES[case_name], options)
            cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST = case.spec["scale"]
            torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
            torch.set_float32_matmul_precision("highest")
            row = {"case": case_name, "variant": name, "type": dtype}
            rows.append(row)
            try:
                predictor = Predictor(cfg)
                made = [predictor(case.image)["instances"].to("cpu") for _ in range(2)]
                row["repeats"] = bool(torch.equal(*(x.pred_boxes.tensor for x in made)))
                model = predictor.model
                inputs = [predictor.prepare(case.image)]
                with torch.no_grad():
                    maps = model.backbone(model.preprocess_image(inputs).tensor)
                in_order = sorted(maps, key=lambda level: int(level[1:]))
                arrays = [case.arrays[f"neck{i}"] for i in range(len(in_order))]
                levels = [maps[level].float().cpu() for level in in_order]
                errors = [feature_error(*pair) for pair in zip(levels, arrays, strict=True)]
                row["neck"] = max(errors)
                row.update(_detections(case, made[0]))
                # TF32 has float16's mantissa.
                tolerance = TOLERANCES["float16" if dtype == "tf32" else dtype]
                found = match(_expected(case), _as_arrays(made[0], Detections), tolerance)
                row["same_within_type"] = found.same
                enough = found.same >= SHARES[dtype] * row["expected"]
                row["ok"] = row["neck"] <= NECK[dtype] and enough
                if dtype == "float32":
                    row["ok"] &= row["same"] >= 0.98 * row["expected"]
                    row["ok"] &= row.get("mask_iou", 1.0) >= 0.98
            except Exception as error:
                row.update(ok=False, error=f"{type(error).__name__}: {error}"[:300])
            print(json.dumps(row), flush=True)
    return rows


def _detections(case, made) -> dict:
    from tests.parity import mask_ious, match_detections

    pairs = match_detections(case, made)
    found = {"expected": len(case.arrays["pred_boxes"]), "made": len(made), "same": len(pairs)}
    if pairs:
        i, j = map(list, zip(*pairs, strict=True))
        boxes = case.arrays["pred_boxes"][i] - made.pred_boxes.tensor.numpy()[j]
        scores = case.arrays["pred_scores"][i] - made.scores.numpy()[j]
        found["box_px"], found["score"] = float(abs(boxes).max()), float(abs(scores).max())
    if "pred_masks_packed_first20" in case.arrays:
        ious = mask_ious(case, made, pairs)
        found["mask_iou"] = sum(ious) / len(ious) if ious else 0.0
    return found


def _expected(case):
    import torch
    from detectron2.structures import Boxes, Instances

    instances = Instances(tuple(case.image.shape[:2]))
    instances.pred_boxes = Boxes(torch.from_numpy(case.arrays["pred_boxes"]))
    instances.scores = torch.from_numpy(case.arrays["pred_scores"])
    instances.pred_classes = torch.from_numpy(case.arrays["pred_classes"])
    return instances


def _as_arrays(made, kind):
    return kind(
        made.image_size,
        made.pred_boxes.tensor.numpy(),
        made.scores.numpy(),
        made.pred_classes.numpy(),
    )


def check_training(case_name: str, device: str) -> list[dict]:
    """Losses and norms of gradients of a case; cases without losses give no row."""
    import re

    import numpy as np
    import torch

    from hrnet_d2 import model_zoo
    from hrnet_d2.checkpoint import Checkpointer, load_file
    from hrnet_d2.devices import set_float32_precision
    from hrnet_d2.modeling import build_model
    from tests.parity import load_case, sample_everything, training_step

    case = load_case(case_name)
    rows = []
    if "gt_boxes" not in case.arrays:
        return rows
    others = {"loss_sem_seg": "loss_semantic_seg", "loss_rpn_loc": "loss_rpn_bbox"}
    fcos = {"loss_fcos_cls": "loss_cls", "loss_fcos_loc": "loss_bbox"}
    fcos["loss_fcos_ctr"] = "loss_centerness"
    expected = dict(case.spec["losses"])
    if "loss_semantic_seg" in expected:
        labels = case.arrays["gt_semantic"][::8, ::8]
        pixels = np.prod([-(-size // 32) * 4 for size in case.spec["resized_size"]])
        expected["loss_semantic_seg"] *= pixels / (labels != 255).sum()
    with tempfile.TemporaryDirectory() as folder:
        path = case.save_checkpoint(os.path.join(folder, "case.pth"))
        for name, options in TRAINING.items():
            row = {"case": case_name, "variant": f"training, {name}", "type": name}
            rows.append(row)
            try:
                torch.backends.cudnn.allow_tf32 = True
                torch.set_float32_matmul_precision("highest")
                cfg = model_zoo.load_config(CASES[case_name], options)
                case.configure(cfg)
                cfg.MODEL.DEVICE = device
                sample_everything(cfg)
                set_float32_precision(cfg)
                model = build_model(cfg)
                Checkpointer(model).load(path)
                losses = training_step(model, case, cfg)
                apart = {}
                for ours, loss in losses.items():
                    theirs = others.get(ours, re.sub(r"(\w+)_stage(\d)", r"s\2.\1", ours))
                    theirs = fcos.get(ours, theirs.replace("box_reg", "bbox"))
                    apart[ours] = abs(loss / expected[theirs] - 1)
                parameters, names = dict(model.named_parameters()), load_file(path).names
                gradients = [
                    abs(float(parameters[names[theirs]].grad.norm()) / norm - 1)
                    for theirs, norm in case.spec["gradient_norms"].items()
                ]
                row.update(loss=max(apart.values()), gradient_norm=max(gradients))
                # TF32 moves proposals of HTC past each other, which changes what is sampled.
                limits = (1e-3, 1e-2) if name == "fp32" else (0.2, 0.2)
                row["ok"] = row["loss"] <= limits[0] and row["gradient_norm"] <= limits[1]
            except Exception as error:
                row.update(ok=False, error=f"{type(error).__name__}: {error}"[:300])
            print(json.dumps(row), flush=True)
    return rows


def _check_all(case_name: str, variants: list[str], device: str, training: bool) -> list[dict]:
    import torch

    torch.set_num_threads(1)
    rows = check(case_name, variants, device)
    return rows + (check_training(case_name, device) if training else [])


def _check_job(job: tuple) -> list[dict]:
    return _check_all(*job)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    without = [name for name in VARIANTS if "compile" not in name]
    parser.add_argument("--variants", nargs="*", default=without, choices=VARIANTS)
    parser.add_argument("--no-training", action="store_true", help="leave out the losses")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args(argv)
    context = multiprocessing.get_context("spawn")
    jobs = [(case, args.variants, args.device, not args.no_training) for case in args.cases]
    with context.Pool(min(args.processes, len(jobs))) as pool:
        from hrnet_d2.benchmark.measuring import environment

        command = ["python tools/check_gpu.py", *(sys.argv[1:] if argv is None else argv)]
        report = {"task": "exactness", "command": " ".join(command)}
        report["environment"] = environment(args.device)
        rows: list[dict] = []
        report["results"] = rows
        for found in pool.imap_unordered(_check_job, jobs):
            rows += found
            rows.sort(key=lambda row: list(CASES).index(row["case"]))
            if args.json:
                Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    held = sum(row["ok"] for row in rows)
    print(f"{held} of {len(rows)} hold")
    return int(held < len(rows))


if __name__ == "__main__":
    sys.exit(main())
