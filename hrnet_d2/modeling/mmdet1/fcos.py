"""FCOS of MMDetection 1.x."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances

from hrnet_d2.modeling.meta_arch.fcos.fcos import FCOS
from hrnet_d2.modeling.meta_arch.fcos.head import Predictions
from hrnet_d2.modeling.meta_arch.fcos.inference import Candidates

from .boxes import clip, scale_of, to_network, to_original
from .meta_arch import OriginalImages, refuse_training

__all__ = ["MMDet1FCOS"]


def finish_boxes(boxes: torch.Tensor, image_sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Decoded boxes (N, K, 4), whose corners are first and last pixels, to boxes on the original.

    Args:
        boxes: location minus and plus the distances.
        image_sizes: N of :class:`ResizedSize`.
    """
    low, high = boxes.split(2, dim=-1)
    half_open = torch.cat((low, high + 1), dim=-1)
    return torch.stack(
        [
            to_original(clip(boxes_i, size), scale_of(size))
            for boxes_i, size in zip(half_open, image_sizes, strict=True)
        ]
    )


@META_ARCH_REGISTRY.register()
class MMDet1FCOS(FCOS):
    """:class:`FCOS` with the boxes of 1.x, for inference.

    Candidates are all classes of the best locations, as in 2.x until October 2021.
    """

    arithmetic = "mmdet1"

    arithmetic = "mmdet1"
    finish_boxes = staticmethod(finish_boxes)

    @configurable
    def __init__(self, *, original_images: OriginalImages, **kwargs: Any):
        """
        Args:
            original_images: knows the sizes before resizing.
            kwargs: of :class:`FCOS`.
        """
        super().__init__(**kwargs)
        self.original_images = original_images

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        ret = super().from_config(cfg)
        ret["test_topk_by"] = "locations"
        ret["original_images"] = OriginalImages(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        return ret

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """As Detectron2's; the sizes are :class:`ResizedSize`."""
        images = super().preprocess_image(batched_inputs)
        return self.original_images.set_sizes(images, batched_inputs)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """As :class:`FCOS`, at test.

        Raises:
            RuntimeError: in training.
        """
        refuse_training(self)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[name] for name in self.head_in_features]
        results = self.forward_inference(images, features, self.head(features))
        return self.original_images.postprocess(results, batched_inputs)

    def forward_inference(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: Predictions | Candidates,
    ) -> list[Instances]:
        """Detections of each image, in pixels of the network's input."""
        results = super().forward_inference(images, features, predictions)
        restored = []
        for instances, size in zip(results, images.image_sizes, strict=True):
            on_input = Instances(size, **instances.get_fields())
            boxes = to_network(instances.pred_boxes.tensor, scale_of(size))
            on_input.pred_boxes = Boxes(boxes)
            restored.append(on_input)
        return restored
