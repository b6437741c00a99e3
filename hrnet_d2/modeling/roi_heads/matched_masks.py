"""Ground-truth masks of sampled proposals, without a copy of a full-size mask for each."""

from typing import Any

import torch
from detectron2.structures import BitMasks
from torchvision.ops import roi_align

__all__ = ["MatchedMasks"]


class MatchedMasks:
    """``masks[index]``, never materialized: each proposal refers to the mask of its object.

    Indexing Detectron2's ``BitMasks`` by 512 sampled proposals copies 512 bitmaps of the image's
    size (half a gigabyte at 800x1333), of which only crops are ever read. This class keeps the M
    masks of the image and an index. It can be a field of ``Instances``, and ``mask_rcnn_loss``
    accepts it.
    """

    def __init__(self, masks: BitMasks, index: torch.Tensor):
        """
        Args:
            masks: the M objects of an image, (M, H, W).
            index: (R,) int64, the object of each proposal.
        """
        self.masks = masks
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: Any) -> "MatchedMasks":
        return MatchedMasks(self.masks, self.index[item])

    def to(self, *args: Any, **kwargs: Any) -> "MatchedMasks":
        return MatchedMasks(self.masks.to(*args, **kwargs), self.index.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.index.device

    @property
    def tensor(self) -> torch.Tensor:
        """(R, H, W) bool, materialized; meant for drawing a few."""
        return self.masks.tensor[self.index]

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Crop each proposal's mask by its box, as ``BitMasks.crop_and_resize``.

        Args:
            boxes: (R, 4) XYXY in pixels.
            mask_size: side of the result.

        Returns:
            (R, mask_size, mask_size) bool.
        """
        assert len(boxes) == len(self), f"{len(boxes)} boxes for {len(self)} masks"
        rois = torch.cat([self.index[:, None].to(boxes), boxes], dim=1)
        bitmaps = self.masks.tensor[:, None].to(torch.float32)
        crops = roi_align(bitmaps, rois, mask_size, 1.0, sampling_ratio=0, aligned=True)
        return crops[:, 0] >= 0.5
