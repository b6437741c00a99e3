"""HTC's heads at test against the formulas of the paper, computed stage by stage.

In the plain version a stage's masks start from the region features again, with the semantic
embedding pooled again and all mask heads before it run again; the semantic branch resizes each
level first and predicts its map too.  Both give the same masks, which is checked.  Weights and
features are random.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.structures import Boxes, ImageList, Instances
from torch.nn import functional as F

from hrnet_d2 import model_zoo
from hrnet_d2.modeling import HTCROIHeads

from .measuring import speedup, summary, time_interleaved

__all__ = ["run_htc_heads"]

Features = dict[str, torch.Tensor]

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


class PlainHTCROIHeads(HTCROIHeads):
    """The same heads, computed as the formulas are written."""

    def _with_semantic(
        self, features: Features, sem_seg: torch.Tensor | None = None
    ) -> tuple[Features, Features]:
        head: Any = self.semantic_head
        size = features[head.common_level].shape[-2:]
        total: Any = 0
        for name, lateral in zip(head.in_features, head.lateral_convs, strict=True):
            x = F.interpolate(features[name], size, mode="bilinear", align_corners=True)
            total = total + F.relu(lateral(x))
        for conv in head.convs:
            total = conv(total)
        head.conv_logits(total)
        return {**features, "semantic": head.conv_embedding(total)}, {}

    def _forward_mask(self, features: Features, instances: list[Instances]) -> list[Instances]:
        boxes = [i.pred_boxes for i in instances]
        classes = torch.cat([i.pred_classes for i in instances])
        total: Any = 0
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


def make_inputs(
    size: tuple[int, int], proposals: int, device: str
) -> tuple[ImageList, Features, list[Instances]]:
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
    images = ImageList(torch.empty(1, 3, height, width), [size])
    return images, features, [Instances(size, proposal_boxes=boxes)]


@torch.no_grad()
def run_htc_heads(args: argparse.Namespace) -> list[dict]:
    """A row for each step of the heads: milliseconds of both versions."""
    size = (args.size[0], args.size[1])
    ours, plain = make_heads(args.device)
    images, features, proposals = make_inputs(size, args.proposals, args.device)
    (detections,), _ = ours(images, features, proposals)
    (expected,), _ = plain(images, features, proposals)
    torch.testing.assert_close(detections.pred_masks, expected.pred_masks, rtol=1e-3, atol=1e-4)

    embedded = ours._with_semantic(features)[0]
    steps: dict[str, Callable[[HTCROIHeads], Any]] = {
        "semantic branch": lambda h: h._with_semantic(features),
        "boxes": lambda h: h._forward_box(embedded, proposals),
        "masks": lambda h: h._forward_mask(embedded, [detections]),
        "all": lambda h: h(images, features, proposals),
    }
    rows = []
    for name, step in steps.items():
        calls = {"plain": functools.partial(step, plain), "ours": functools.partial(step, ours)}
        seconds = time_interleaved(calls, args.repeat, args.device)
        row = {"step": name, "size": args.size, "proposals": args.proposals}
        row["masks"] = len(detections)
        row["paths"] = {key: summary(value) for key, value in seconds.items()}
        row["speedup"] = speedup(seconds["plain"], seconds["ours"])
        rows.append(row)
        medians = {key: path["median_ms"] for key, path in row["paths"].items()}
        print(f"{name}: {medians} ms, {row['speedup']:.2f} times as fast", flush=True)
    return rows
