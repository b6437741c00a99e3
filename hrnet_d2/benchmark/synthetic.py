"""Inputs and weights for measurements, without any file."""

from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

__all__ = ["calibrate_random_weights", "synthetic_image", "synthetic_input"]

# Standard deviation and mean that a layer's outputs are brought to, by the layer's last name: so
# that proposals and detections of random weights are many, different and of all sizes.
_OUTPUTS = {
    "objectness_logits": (2.0, 0.0),
    "anchor_deltas": (0.3, 0.0),
    "cls_score": (2.5, 0.0),
    "bbox_pred": (0.5, 0.0),
    "ctrness": (1.0, 0.0),
}


def synthetic_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: smooth colors with rectangles and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (max(2, height // 50), max(2, width // 50), 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(30):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(8, max(9, width // 3)), rng.integers(8, max(9, height // 3))
        color = tuple(int(c) for c in rng.integers(0, 255, 3))
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), color, -1)
    noise = rng.integers(-8, 8, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def synthetic_input(
    height: int, width: int, *, objects: int = 0, num_classes: int = 80, seed: int = 0
) -> dict:
    """A model's input for one image; with ``objects`` ground truth (boxes, masks, stuff map)."""
    image = torch.from_numpy(synthetic_image(height, width, seed).transpose(2, 0, 1).copy())
    record = {"image": image, "height": height, "width": width}
    if objects:
        generator = torch.Generator().manual_seed(seed)
        size = torch.tensor([width, height])
        start = torch.rand(objects, 2, generator=generator) * size * 0.7
        extent = (0.05 + 0.25 * torch.rand(objects, 2, generator=generator)) * size
        boxes = torch.cat([start, torch.minimum(start + extent, size)], dim=1)
        masks = torch.zeros(objects, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(0, num_classes, (objects,), generator=generator)
        instances.gt_masks = BitMasks(masks)
        record["instances"] = instances
        record["sem_seg"] = torch.randint(0, 183, (height, width), generator=generator)
    return record


@torch.no_grad()
def calibrate_random_weights(model: nn.Module, inputs: list[dict]) -> None:
    """Scale random weights, in place, so that activations stay finite and detections are many."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.4)
    handles = []
    done = set()

    def hook(
        module: Any, output: torch.Tensor, deviation: float, mean: float
    ) -> torch.Tensor | None:
        if id(module) in done or output.numel() < 2:
            return None
        done.add(id(module))
        factor = deviation / output.std().clamp(min=1e-6)
        module.weight.mul_(factor)
        if module.bias is not None:
            module.bias.copy_(mean - output.mean() * factor + module.bias * factor)
        scaled: torch.Tensor = output * factor + (mean - output.mean() * factor)
        return scaled

    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in _OUTPUTS and isinstance(module, (nn.Conv2d, nn.Linear)):
            deviation, mean = _OUTPUTS[last]
            if name == "head.bbox_pred":  # FCOS: logarithms of pixels
                mean = 3.6
            elif name == "head.cls_score":
                mean = -3.0

            def bound(
                module: nn.Module,
                _: Any,
                output: torch.Tensor,
                deviation: float = deviation,
                mean: float = mean,
            ) -> torch.Tensor | None:
                return hook(module, output, deviation, mean)

            handles.append(module.register_forward_hook(bound))
    model.eval()
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
