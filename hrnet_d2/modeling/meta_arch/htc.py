"""The meta-architecture of Hybrid Task Cascade: passes semantic maps on to the ROI heads.

Chen et al., "Hybrid Task Cascade for Instance Segmentation", https://arxiv.org/abs/1901.07518.
The cascade itself is :class:`hrnet_d2.modeling.roi_heads.htc.HTCROIHeads`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList

__all__ = ["HybridTaskCascade", "SemanticImageList"]


class SemanticImageList(ImageList):
    """Padded images and their semantic maps."""

    def __init__(
        self,
        tensor: torch.Tensor,
        image_sizes: list[tuple[int, int]],
        sem_seg: torch.Tensor,
    ):
        """
        Args:
            tensor: (N, C, H, W) padded images.
            image_sizes: N heights and widths before padding.
            sem_seg: (N, H, W) labels.
        """
        super().__init__(tensor, image_sizes)
        self.sem_seg = sem_seg


@META_ARCH_REGISTRY.register()
class HybridTaskCascade(GeneralizedRCNN):
    """``GeneralizedRCNN`` that passes semantic maps on to its ROI heads.

    In training an input may have "sem_seg", an integer tensor (H, W) of the image's size. Padding,
    and all pixels of an input without one, are ignored.
    """

    @configurable
    def __init__(self, **kwargs: Any):
        """
        Args:
            kwargs: of Detectron2's ``GeneralizedRCNN``; the ROI heads are :class:`HTCROIHeads`.
        """
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return super().from_config(cfg)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """As ``GeneralizedRCNN.preprocess_image``; in training with the semantic maps.

        Raises:
            ValueError: if a map and its image differ in size.
        """
        images = super().preprocess_image(batched_inputs)
        head = getattr(self.roi_heads, "semantic_head", None)
        if not self.training or head is None:
            return images
        maps = []
        for entry, size in zip(batched_inputs, images.image_sizes, strict=True):
            sem_seg = entry.get("sem_seg")
            if sem_seg is None:
                sem_seg = torch.full(size, head.ignore_value, dtype=torch.int64)
            elif tuple(sem_seg.shape) != tuple(size):
                name = entry.get("sem_seg_file_name", entry.get("file_name", "an input"))
                raise ValueError(
                    f"{name}: the size of the semantic map is {tuple(sem_seg.shape)}, that of its "
                    f"image {tuple(size)}"
                )
            height, width = images.tensor.shape[-2:]
            padding = (0, width - size[1], 0, height - size[0])
            maps.append(F.pad(sem_seg.to(torch.int64), padding, value=head.ignore_value))
        return SemanticImageList(images.tensor, images.image_sizes, torch.stack(maps))
