"""Images to a batch on the GPU with few operations of the host."""

from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList
from torch import nn

from hrnet_d2.modeling.meta_arch.htc import HybridTaskCascade

__all__ = ["GPUInput", "take_images_faster"]

_PLAIN = (GeneralizedRCNN, DenseDetector, HybridTaskCascade)


class GPUInput:
    """``preprocess_image`` of Detectron2's detectors at test, with the same results.

    Detectron2 pads and computes sizes by tensors on the host, which costs milliseconds where there
    are many cores.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        model: Any = self.model
        images = [record["image"] for record in batched_inputs]
        mean, deviation = model.pixel_mean, model.pixel_std
        if model.backbone.padding_constraints or any(x.shape[0] != len(mean) for x in images):
            return type(model).preprocess_image(model, batched_inputs)
        sizes = [tuple(image.shape[-2:]) for image in images]
        multiple = max(1, model.backbone.size_divisibility)
        height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
        batch = mean.new_zeros(len(images), len(mean), height, width)
        for place, image, (h, w) in zip(batch, images, sizes, strict=True):
            torch.div(image.to(mean.device) - mean, deviation, out=place[:, :h, :w])
        return ImageList(batch, sizes)


def take_images_faster(model: nn.Module) -> None:
    """Let a detector whose input is Detectron2's take it by :class:`GPUInput`, in place."""
    own = getattr(type(model), "preprocess_image", None)
    if any(own is kind.preprocess_image for kind in _PLAIN):
        object.__setattr__(model, "preprocess_image", GPUInput(model))
