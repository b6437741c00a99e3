"""Small files of detectors: the shapes of a reference case, without its values.

Of HRNet they hold what ``tests/depth.py`` leaves of it.
"""

import functools
import json
import math
import re

import torch

from tests.parity import FOLDER

CASES = {
    "faster_rcnn": "faster_rcnn_hrnetv2p_w18",
    "mask_rcnn": "mask_rcnn_hrnetv2p_w32",
    "cascade_rcnn": "cascade_rcnn_hrnetv2p_w18",
    "cascade_mask_rcnn": "cascade_mask_rcnn_hrnetv2p_w18",
    "htc": "htc_hrnetv2p_w18",
    "fcos": "fcos_hrnetv2p_w18",
    "x101": "htc_x101_64x4d_fpn",
}


# A stage's modules and a branch's blocks but the first.
LEFT_OUT = re.compile(r"backbone\.stage[234]\.([1-9]|0\.branches\.\d\.[1-9]).*")


@functools.cache
def state(family: str) -> dict[str, torch.Tensor]:
    """MMDetection's name to a tensor of that shape; they share their values, one byte each."""
    spec = json.loads((FOLDER / f"{CASES[family]}.json").read_text())
    shapes = {name: s for name, s in spec["parameters"] if not LEFT_OUT.fullmatch(name)}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    shared = torch.zeros(max(sizes.values()), dtype=torch.int8)
    return {name: shared[: sizes[name]].view(shape) for name, shape in shapes.items()}


def save(path, family: str, meta: dict, **changes) -> str:
    """Write a detector's file with ``meta``; ``changes`` are tensors by name."""
    tensors = {**state(family), **{name.replace("__", "."): t for name, t in changes.items()}}
    torch.save({"meta": meta, "state_dict": tensors}, path)
    return str(path)
