"""Reference cases: what MMDetection computes, rebuilt from ``tests/reference`` (see its README)."""

import functools
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from tests.reference.weights import reference_state_dict

FOLDER = Path(__file__).parent / "reference"

FEATURE_TOLERANCE = 1e-3  # of the level's largest value
LOSS_TOLERANCE = 1e-3  # relative
GRADIENT_TOLERANCE = 1e-2  # relative


@dataclass(frozen=True)
class Case:
    """One case: ``spec`` is its JSON, ``arrays`` its npz."""

    name: str
    spec: dict
    arrays: dict

    @property
    def image(self) -> np.ndarray:
        """The original photograph, (H, W, 3) uint8 BGR."""
        return cv2.imread(str(FOLDER / "images" / self.spec["image"]))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights by MMDetection's names."""
        spec = self.spec
        arrays = reference_state_dict(spec["parameters"], spec["seed"], spec.get("gains", ()))
        return OrderedDict((name, torch.from_numpy(value)) for name, value in arrays.items())

    def save_checkpoint(self, path) -> str:
        """Write the weights as MMDetection of the case's time would; returns the path."""
        if "meta_config" not in self.spec:
            torch.save({"meta": {"epoch": 12, "iter": 1}, "state_dict": self.state_dict()}, path)
            return str(path)
        spec = self.spec
        meta = {"mmdet_version": spec["mmdet_version"], "config": spec["meta_config"]}
        meta |= spec["meta"] | {"CLASSES": tuple(spec["meta"]["CLASSES"])}
        checkpoint = {"meta": meta, "state_dict": self.state_dict()}
        torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
        return str(path)

    def configure(self, cfg) -> None:
        """Set the case's input and arithmetic on a config of the table, and its device."""
        cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST = self.spec["scale"]
        cfg.MODEL.DEVICE = "cpu"
        if "arithmetic" in self.spec:
            cfg.MODEL.ARITHMETIC = self.spec["arithmetic"]
            cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = (
                self.spec["pixel_mean"],
                self.spec["pixel_std"],
            )
            cfg.INPUT.FORMAT = "RGB" if self.spec["to_rgb"] else "BGR"

    def inputs(self, cfg, training: bool = False) -> list[dict]:
        """The model's input for the resized image; with ground truth where ``training``."""
        image = torch.from_numpy(self.arrays["image_resized"].transpose(2, 0, 1).copy())
        if cfg.INPUT.FORMAT == "RGB":
            image = image.flip(0)
        height, width = self.spec["resized_size"]
        record = {"image": image, "height": height, "width": width}
        if training:
            instances = Instances((height, width))
            instances.gt_boxes = Boxes(torch.from_numpy(self.arrays["gt_boxes"]))
            instances.gt_classes = torch.from_numpy(self.arrays["gt_classes"]).long()
            instances.gt_masks = BitMasks(unpack_masks(self.arrays["gt_masks_packed"], width))
            record["instances"] = instances
            record["sem_seg"] = torch.from_numpy(self.arrays["gt_semantic"].astype(np.int64))
        return [record]


@functools.cache
def load_case(name: str) -> Case:
    """Case ``name``, such as "mmdet1/v1_htc_w18"; its arrays must not be written to."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return Case(name, json.loads((FOLDER / f"{name}.json").read_text()), dict(arrays))


def unpack_masks(packed: np.ndarray, width: int) -> torch.Tensor:
    """(N, H, ceil(W / 8)) packed bits to (N, H, W) bool."""
    return torch.from_numpy(np.unpackbits(packed, axis=-1)[..., :width].astype(bool))


def feature_error(feature: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference of a level (1, C, H, W) to its stored sample, over the largest value."""
    f = feature[0].detach().float().numpy()
    step = max(1, min(f.shape[-2:]) // 8)
    sample = f[:: max(1, f.shape[0] // 8), ::step, ::step]
    assert sample.shape == expected.shape, f"{sample.shape} != {expected.shape}"
    return float(np.abs(sample - expected).max() / np.abs(expected).max())


def match_detections(case: Case, instances: Instances) -> list[tuple[int, int]]:
    """Pairs (expected, made): same class, IoU > 0.99, scores within 2e-3, one to one."""
    arrays = case.arrays
    iou = pairwise_iou(Boxes(torch.from_numpy(arrays["pred_boxes"])), instances.pred_boxes)
    same = torch.from_numpy(arrays["pred_classes"])[:, None] == instances.pred_classes[None]
    scores = torch.from_numpy(arrays["pred_scores"])[:, None]
    close = (scores - instances.scores[None]).abs() < 2e-3
    iou = iou * same * close
    pairs, used = [], set()
    for i, row in enumerate(iou):
        for j in row.argsort(descending=True).tolist():
            if row[j] <= 0.99:
                break
            if j not in used:
                used.add(j)
                pairs.append((i, j))
                break
    return pairs


def mask_ious(case: Case, instances: Instances, pairs: list[tuple[int, int]]) -> list[float]:
    """IoU of the masks of matched detections, among the first 20 that the case stores."""
    masks = instances.pred_masks
    expected = unpack_masks(case.arrays["pred_masks_packed_first20"], masks.shape[-1])
    ious = []
    for i, j in pairs:
        if i < len(expected) and expected[i].sum() > 0:
            inter, union = (expected[i] & masks[j]).sum(), (expected[i] | masks[j]).sum()
            ious.append(float(inter / union))
    return ious


def training_step(model: torch.nn.Module, case: Case, cfg) -> dict[str, float]:
    """Losses of the case's image by name, after a backward pass.

    The samplers must take everything (see :func:`sample_everything`).
    """
    model.train()
    model.zero_grad()
    with EventStorage(0):
        losses = model(case.inputs(cfg, training=True))
    sum(losses.values()).backward()
    return {name: float(loss.detach()) for name, loss in losses.items()}


def sample_everything(cfg) -> None:
    """Set the samplers to take every anchor and proposal, as in the losses of the cases."""
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 10**6
