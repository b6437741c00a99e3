"""FCOS's post-processing against Detectron2's own FCOS, on the same candidates.

Both get the same random predictions of five levels and 80 classes, with a centerness of 1, so that
Detectron2's threshold on sqrt(p x centerness) at sqrt(0.05) leaves the same candidates as ours on p
at 0.05.
"""

import argparse
from collections.abc import Callable

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import ImageList, Instances
from torch import nn

from hrnet_d2.modeling.meta_arch.fcos.inference import detect
from hrnet_d2.modeling.meta_arch.fcos.targets import level_locations

from .measuring import speedup, summary, time_interleaved

__all__ = ["run_fcos_postprocessing"]

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 80
THRESHOLD = 0.05
WARMUP = 2

Levels = list[torch.Tensor]


class _NoBackbone(nn.Module):
    def output_shape(self) -> dict[str, ShapeSpec]:
        return {f"p{i}": ShapeSpec(channels=1, stride=s) for i, s in enumerate(STRIDES, start=3)}


def random_predictions(
    images: int, size: tuple[int, int], objects: int, device: str
) -> tuple[Levels, Levels, Levels]:
    """Logits, distances in pixels and centerness of each level; ``objects`` candidates each."""
    torch.manual_seed(0)
    logits, distances, ctrness = [], [], []
    for stride in STRIDES:
        shape = (max(1, size[0] // stride), max(1, size[1] // stride))
        x = torch.full((images, CLASSES, *shape), -6.0) + torch.rand(images, CLASSES, *shape)
        flat = x.view(images, -1)
        chosen = torch.rand_like(flat).argsort(dim=1)[:, :objects]
        flat.scatter_(1, chosen, torch.rand(images, chosen.shape[1]) * 6 - 2.5)
        logits.append(x.to(device))
        distances.append((torch.rand(images, 4, *shape) * 4 * stride + stride).to(device))
        ctrness.append(torch.full((images, 1, *shape), 30.0, device=device))
    return logits, distances, ctrness


def _paths(
    predictions: tuple[Levels, Levels, Levels], size: tuple[int, int], images: int, repeat: int
) -> dict[str, Callable[[], list[Instances]]]:
    logits, distances, ctrness = predictions
    device = logits[0].device
    deltas = [d / s for d, s in zip(distances, STRIDES, strict=True)]
    batch = ImageList(torch.zeros(images, 3, *size, device=device), [size] * images)
    stock = FCOS(
        backbone=_NoBackbone(),
        head=nn.Identity(),
        num_classes=CLASSES,
        test_score_thresh=THRESHOLD**0.5,
        test_nms_thresh=0.5,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    ).to(device)
    # Detectron2's changes its input, so each call gets a copy, made before the clock starts.
    copies = iter(
        [
            [[x.clone() for x in levels] for levels in (logits, deltas, ctrness)]
            for _ in range(repeat + WARMUP + 1)
        ]
    )

    def ours() -> list[Instances]:
        points = level_locations([x.shape[-2:] for x in logits], STRIDES, device)
        return detect(
            *(logits, distances, ctrness, points, batch.image_sizes),
            score_thresh=THRESHOLD,
            topk=1000,
            nms_thresh=0.5,
            max_detections=100,
        )

    def detectron2() -> list[Instances]:
        copy = next(copies)
        found: list[Instances] = stock.forward_inference(batch, copy[0], copy)
        return found

    return {"detectron2": detectron2, "ours": ours}


@torch.no_grad()
def run_fcos_postprocessing(args: argparse.Namespace) -> list[dict]:
    """A row for each number of candidates: milliseconds and found objects of both."""
    rows = []
    size = tuple(args.size)
    for objects in args.objects:
        predictions = random_predictions(args.batch, size, objects, args.device)
        candidates = sum(int((x.sigmoid() > THRESHOLD).sum()) for x in predictions[0])
        paths = _paths(predictions, size, args.batch, args.repeat)
        found = {name: sum(map(len, path())) for name, path in paths.items()}
        seconds = time_interleaved(paths, args.repeat, args.device, warmup=WARMUP)
        row = {"size": args.size, "batch": args.batch, "candidates": candidates // args.batch}
        row["paths"] = {n: {**summary(s), "found": found[n]} for n, s in seconds.items()}
        row["speedup"] = speedup(seconds["detectron2"], seconds["ours"])
        rows.append(row)
        medians = {name: path["median_ms"] for name, path in row["paths"].items()}
        print(f"{row['candidates']} candidates an image: {medians} ms, found {found}", flush=True)
    return rows
