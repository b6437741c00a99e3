#!/usr/bin/env python
r"""Time of FCOS's post-processing against Detectron2's own FCOS, on the same candidates.

    python tools/benchmark_fcos_postprocessing.py [--device cuda] [--size 800 1344] [--images 4]

Both get the same random predictions of five levels and 80 classes, with a centerness of 1, so that
Detectron2's threshold on sqrt(p x centerness) at sqrt(0.05) leaves the same candidates as ours on p
at 0.05. They take turns, and the medians and their ratio are printed.
"""

import argparse
import statistics
import time

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import ImageList
from hrnet_d2.modeling.fcos_inference import detect
from hrnet_d2.modeling.fcos_targets import level_locations
from torch import nn

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 80
THRESHOLD = 0.05


class NoBackbone(nn.Module):
    def output_shape(self) -> dict[str, ShapeSpec]:
        return {f"p{i}": ShapeSpec(channels=1, stride=s) for i, s in enumerate(STRIDES, start=3)}


def random_predictions(images: int, size: tuple[int, int], objects: int, device: str):
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


def timed(function, device: str) -> tuple[float, list]:
    """Milliseconds of one call, and what it returns."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start), result


@torch.no_grad()
def compare(images: int, size: tuple[int, int], objects: int, device: str, repeat: int) -> None:
    """Print a line: candidates of an image, median milliseconds of both, their ratio."""
    logits, distances, ctrness = random_predictions(images, size, objects, device)
    deltas = [d / s for d, s in zip(distances, STRIDES, strict=True)]
    candidates = sum(int((x.sigmoid() > THRESHOLD).sum()) for x in logits) / images
    batch = ImageList(torch.zeros(images, 3, *size, device=device), [size] * images)
    theirs = FCOS(
        backbone=NoBackbone(),
        head=nn.Identity(),
        num_classes=CLASSES,
        test_score_thresh=THRESHOLD**0.5,
        test_nms_thresh=0.5,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    ).to(device)

    def ours():
        points = level_locations([x.shape[-2:] for x in logits], STRIDES, torch.device(device))
        return detect(
            *(logits, distances, ctrness, points, batch.image_sizes),
            score_thresh=THRESHOLD,
            topk=1000,
            nms_thresh=0.5,
            max_detections=100,
        )

    times = {"ours": [], "theirs": []}
    for _ in range(repeat + 2):
        milliseconds, made = timed(ours, device)
        times["ours"].append(milliseconds)
        # Detectron2's changes its input, so each call gets a copy, made before the clock starts.
        copies = [[x.clone() for x in levels] for levels in (logits, deltas, ctrness)]
        run = lambda: theirs.forward_inference(batch, copies[0], copies)  # noqa: B023, E731
        milliseconds, expected = timed(run, device)
        times["theirs"].append(milliseconds)
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    ratio = medians["ours"] / medians["theirs"]
    found = sum(map(len, made)), sum(map(len, expected))
    print(
        f"{images:7d} {candidates:11.0f} {medians['ours']:9.2f} {medians['theirs']:13.2f} "
        f"{ratio:6.2f}   {found[0]} / {found[1]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), help="height and width")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4], help="in a batch")
    parser.add_argument(
        "--objects", type=int, nargs="+", default=[100, 1000, 5000], help="candidates of a level"
    )
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    print(f"{args.device}, torch {torch.__version__}, {args.size[0]} x {args.size[1]}")
    print(" images  candidates   ours ms  detectron2 ms  ratio   found by each")
    for images in args.images:
        for objects in args.objects:
            compare(images, tuple(args.size), objects, args.device, args.repeat)


if __name__ == "__main__":
    main()
