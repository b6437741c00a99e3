#!/usr/bin/env python
"""Time HTC's heads at test against a plain reading of the formulas, in one run.

    python tools/benchmark_htc_heads.py [--size 800 1344] [--device cuda] [--repeat 10]

The plain reading computes what the paper's formulas say, stage by stage: a stage's masks begin
from the region features again, with the semantic embedding pooled again and all mask heads before
it run again; the semantic branch resizes each level first and predicts its map too.  Both give the
same masks, which the tool checks.  Weights and features are random.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.structures import Boxes, ImageList, Instances
from torch.nn import functional as F

from hrnet_d2 import model_zoo
from hrnet_d2.modeling import HTCROIHeads

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


class PlainHTCROIHeads(HTCROIHeads):
    """The same heads, as the formulas stand."""

    def _with_semantic(self, features, sem_seg=None):
        head = self.semantic_head
        size = features[head.common_level].shape[-2:]
        total = 0
        for name, lateral in zip(head.in_features, head.lateral_convs, strict=True):
            x = F.interpolate(features[name], size, mode="bilinear", align_corners=True)
            total = total + F.relu(lateral(x))
        for conv in head.convs:
            total = conv(total)
        head.conv_logits(total)
        return {**features, "semantic": head.conv_embedding(total)}, {}

    def _forward_mask(self, features, instances):
        boxes = [i.pred_boxes for i in instances]
        classes = torch.cat([i.pred_classes for i in instances])
        total = 0
        for stage in range(self.num_cascade_stages):
            x = self._mask_features(features, boxes)
            total = total + self._mask_logits(x, stage).sigmoid()
        masks = total[torch.arange(len(classes)), classes][:, None] / self.num_cascade_stages
        for instances_i, masks_i in zip(
            instances, masks.split([len(i) for i in instances]), strict=True
        ):
            instances_i.pred_masks = masks_i
        return instances


def make_heads(device: str) -> tuple[HTCROIHeads, PlainHTCROIHeads]:
    cfg = model_zoo.get_config("htc/htc_hrnetv2p_w18_20e_coco.yaml")
    shapes = {name: ShapeSpec(channels=256, stride=stride) for name, stride in STRIDES.items()}
    torch.manual_seed(0)
    ours = build_roi_heads(cfg, shapes).to(device).eval()
    plain = PlainHTCROIHeads(cfg, shapes).to(device).eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def make_inputs(size: tuple[int, int], proposals: int, device: str):
    """Random features of an image, and proposals of all sizes."""
    height, width = (-(-n // 32) * 32 for n in size)
    generator = torch.Generator().manual_seed(0)
    features = {
        name: torch.randn(1, 256, height // s, width // s, generator=generator).to(device)
        for name, s in STRIDES.items()
    }
    center = torch.rand(proposals, 2, generator=generator) * torch.tensor([width, height])
    half = torch.exp(torch.rand(proposals, 2, generator=generator) * 3.5 + 2)
    boxes = Boxes(torch.cat([center - half, center + half], dim=1).to(device))
    boxes.clip(size)
    images = ImageList(torch.empty(1, 3, height, width), [tuple(size)])
    return images, features, [Instances(tuple(size), proposal_boxes=boxes)]


def seconds(functions: Sequence[Callable], repeat: int, device: str) -> list[float]:
    """Median time of a call of each; they take turns, so that other load meets all alike."""
    times = [[] for _ in functions]
    for i in range(repeat + 1):
        for function, own in zip(functions, times, strict=True):
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            if i:  # the first one warms up
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    parser.add_argument("--proposals", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    heads = make_heads(args.device)
    images, features, proposals = make_inputs(args.size, args.proposals, args.device)
    (detections,), _ = heads[0](images, features, proposals)
    (expected,), _ = heads[1](images, features, proposals)
    torch.testing.assert_close(detections.pred_masks, expected.pred_masks, rtol=1e-3, atol=1e-4)

    embedded = heads[0]._with_semantic(features)[0]
    steps = {
        "semantic branch": lambda h: h._with_semantic(features),
        "boxes": lambda h: h._forward_box(embedded, proposals),
        "masks": lambda h: h._forward_mask(embedded, [detections]),
        "all": lambda h: h(images, features, proposals),
    }
    print(f"{args.size[0]}x{args.size[1]}, {args.proposals} proposals, {len(detections)} masks")
    print(f"{args.device}, median of {args.repeat}, milliseconds")
    print(f"{'':16} {'ours':>8} {'plain':>8} {'ratio':>6}")
    for name, step in steps.items():
        ours, plain = seconds([partial(step, h) for h in heads], args.repeat, args.device)
        print(f"{name:16} {ours * 1e3:8.1f} {plain * 1e3:8.1f} {plain / ours:5.2f}x")


if __name__ == "__main__":
    main()
