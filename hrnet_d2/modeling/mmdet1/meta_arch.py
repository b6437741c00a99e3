"""Meta-architectures of MMDetection 1.x: from the original image and back to it."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from hrnet_d2.modeling.meta_arch.htc import HybridTaskCascade

from .boxes import ResizedSize, resize_factor, to_original
from .masks import paste_masks

__all__ = ["MMDet1HybridTaskCascade", "MMDet1RCNN", "OriginalImages", "refuse_training"]


class OriginalImages:
    """The sizes of the images that the network's inputs were resized from, and the way back."""

    def __init__(self, short_edge: int, long_edge: int):
        """
        Args:
            short_edge, long_edge: lengths to which images are resized, as ``INPUT.MIN_SIZE_TEST``
                and ``INPUT.MAX_SIZE_TEST``.
        """
        self.short_edge = short_edge
        self.long_edge = long_edge

    def resized_size(self, entry: dict[str, Any]) -> ResizedSize:
        """The size of an input's image, with the factor that its "height" and "width" tell."""
        size = tuple(entry["image"].shape[-2:])
        factor = resize_factor(_original(entry), size, self.short_edge, self.long_edge)
        return ResizedSize(size, factor)

    def set_sizes(self, images: ImageList, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Give the images their :class:`ResizedSize`; returns them."""
        images.image_sizes = [self.resized_size(entry) for entry in batched_inputs]
        return images

    def postprocess(
        self, results: list[Instances], batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Instances]]:
        """Detections on the original images, with masks of their size; none is dropped.

        Args:
            results: of each image, with ``pred_boxes`` in pixels of the network's input.
            batched_inputs: of the network.
        """
        processed = []
        for instances, entry in zip(results, batched_inputs, strict=True):
            boxes = to_original(instances.pred_boxes.tensor, self.resized_size(entry).scale)
            restored = Instances(_original(entry), **instances.get_fields())
            restored.pred_boxes = Boxes(boxes)
            if instances.has("pred_masks"):
                masks = paste_masks(instances.pred_masks[:, 0], boxes, restored.image_size)
                restored.pred_masks = masks
            processed.append({"instances": restored})
        return processed


def _original(entry: dict[str, Any]) -> tuple[int, int]:
    height, width = entry["image"].shape[-2:]
    return entry.get("height", height), entry.get("width", width)


def refuse_training(model: nn.Module) -> None:
    """
    Raises:
        RuntimeError: if ``model`` is in training mode.
    """
    if model.training:
        raise RuntimeError(
            "MODEL.ARITHMETIC 'mmdet1' is for inference only: build the model with 'mmdet2' to "
            "fine-tune weights of MMDetection 1.x"
        )


@META_ARCH_REGISTRY.register()
class MMDet1RCNN(GeneralizedRCNN):
    """Faster, Mask, Cascade and Cascade Mask R-CNN of MMDetection 1.x, for inference."""

    arithmetic = "mmdet1"

    @configurable
    def __init__(self, *, original_images: OriginalImages, **kwargs: Any):
        """
        Args:
            original_images: knows the sizes before resizing.
            kwargs: of Detectron2's ``GeneralizedRCNN``.
        """
        super().__init__(**kwargs)
        self.original_images = original_images

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        ret: dict[str, Any] = super().from_config(cfg)
        ret["original_images"] = OriginalImages(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        return ret

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """As Detectron2's; the sizes are :class:`ResizedSize`."""
        images = super().preprocess_image(batched_inputs)
        return self.original_images.set_sizes(images, batched_inputs)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """As Detectron2's, at test.

        Raises:
            RuntimeError: in training.
        """
        refuse_training(self)
        return super().forward(batched_inputs)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[Any]:
        """As ``GeneralizedRCNN.inference``."""
        if detected_instances is not None:
            sizes = [self.original_images.resized_size(entry) for entry in batched_inputs]
            detected_instances = [
                Instances(size, **instances.get_fields())
                for size, instances in zip(sizes, detected_instances, strict=True)
            ]
        results = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        if not do_postprocess:
            return results
        return self.original_images.postprocess(results, batched_inputs)


@META_ARCH_REGISTRY.register()
class MMDet1HybridTaskCascade(MMDet1RCNN, HybridTaskCascade):
    """Hybrid Task Cascade of MMDetection 1.x, for inference."""
