"""Faster, Mask, Cascade and Cascade Mask R-CNN and HTC as one graph.

N = number of images, R = number of regions, K = number of classes, D = number of detections; R
and D are of all images together.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler
from torch import nn

from .graph import (
    DetectorGraph,
    best_of_each,
    bounded,
    grouped_nms,
    len_of,
    positions,
    top_padded,
)

__all__ = ["TwoStageGraph"]


class _GraphPooler(nn.Module):
    """``ROIPooler`` whose levels may be empty."""

    def __init__(self, pooler: ROIPooler):
        super().__init__()
        self.pooler = pooler

    def forward(
        self, maps: Sequence[torch.Tensor], box_lists: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """As ``ROIPooler``, for :func:`_regions`: ``Boxes`` branches on their number."""
        (rois,) = box_lists
        boxes = rois[:, 1:]
        pooler = self.pooler
        dtype = maps[0].dtype
        maps = [x.float() for x in maps]  # coordinates need more than 16 bits
        if len(pooler.level_poolers) == 1:
            return pooler.level_poolers[0](maps[0], rois).to(dtype)
        # Eqn. 1 of the FPN paper, as Detectron2's assign_boxes_to_levels.
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        levels = pooler.canonical_level + (sizes / pooler.canonical_box_size + 1e-8).log2()
        levels = levels.floor().clamp(pooler.min_level, pooler.max_level) - pooler.min_level
        rows = [bounded((levels == level).nonzero())[:, 0] for level in range(len(maps))]
        pooled = [
            align(x, rois[row])
            for align, x, row in zip(pooler.level_poolers, maps, rows, strict=True)
        ]
        return torch.cat(pooled)[torch.cat(rows).argsort()].to(dtype)


class TwoStageGraph(DetectorGraph):
    """Faster, Mask, Cascade and Cascade Mask R-CNN and HTC."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32):
        super().__init__(model, dtype)
        heads = self.model.roi_heads
        for name in ("box_pooler", "mask_pooler", "semantic_pooler"):
            if getattr(heads, name, None) is not None:
                setattr(heads, name, _GraphPooler(getattr(heads, name)))

    def forward(
        self,
        images: torch.Tensor,
        size: torch.Tensor,
        score_thresh: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """
        Args:
            images: (N, 3, H, W) uint8, H and W multiples of 32 and at least 64.
            size: (N, 2) int64 heights and widths without padding.
            score_thresh: () float32, above which scores must be.
            scale: (N,) float32, pixels of the input for each of the original image; in 1.x
                arithmetic only.

        Returns:
            (D, 4) boxes in pixels of the input, (D,) scores, (D,) classes and (D,) positions of
            their images in the batch, sorted by image and descending score; and (D, 28, 28)
            probabilities of the masks, if the model has any.
        """
        size = size.float()
        features = self._features(images, size)
        boxes, image = self._proposals(features, size)
        heads = self.model.roi_heads
        if getattr(heads, "semantic_head", None) is not None:
            features, _ = heads._with_semantic(features)
        boxes, scores = self._boxes_and_scores(features, boxes, image, size)
        boxes, scores, classes, image = self._select(
            boxes, scores, image, size, score_thresh, scale
        )
        if not heads.mask_on:
            return boxes, scores, classes, image
        return boxes, scores, classes, image, self._masks(features, boxes, classes, image)

    def _proposals(
        self, features: dict[str, torch.Tensor], size: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, 4) and the positions of their images; ``find_top_rpn_proposals`` of Detectron2."""
        rpn = self.model.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        anchors = rpn.anchor_generator(maps)
        logits, deltas = rpn.rpn_head(maps)
        logits = [x.float().permute(0, 2, 3, 1).flatten(1) for x in logits]
        deltas = [
            x.unflatten(1, (-1, rpn.anchor_generator.box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for x in deltas
        ]
        count = rpn.pre_nms_topk[False]
        boxes, scores = [], []
        for level_boxes, x in zip(rpn._decode_proposals(anchors, deltas), logits, strict=True):
            best, index = top_padded(x, count, -torch.inf).topk(count)
            padded = F.pad(level_boxes, (0, 0, 0, count))
            boxes.append(padded.gather(1, index[:, :, None].expand(-1, -1, 4)))
            scores.append(best)
        box, score = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
        finite = box.isfinite().all(dim=2) & score.isfinite()
        box = self.arithmetic.clip(box, size[:, None])
        valid = finite & ((box[:, :, 2:] - box[:, :, :2]) > rpn.min_box_size).all(dim=2)
        row = bounded(valid.flatten().nonzero())[:, 0]
        box, score = box.flatten(0, 1)[row], score.flatten()[row]
        # Of image after image, level after level; a group is a level of an image.
        group, images, levels = row // count, positions(size), len(boxes)
        keep = grouped_nms(box, score, group, len_of(images) * levels, size.max(), rpn.nms_thresh)
        image = group // levels
        keep = keep[best_of_each(image[keep], images, rpn.post_nms_topk[False])]
        return box[keep], image[keep]

    def _boxes_and_scores(
        self,
        features: dict[str, torch.Tensor],
        boxes: torch.Tensor,
        image: torch.Tensor,
        size: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, K or 1, 4) boxes and (R, K + 1) probabilities of the last stage."""
        heads = self.model.roi_heads
        if not isinstance(heads.box_predictor, nn.ModuleList):
            maps = [features[name] for name in heads.box_in_features]
            x = heads.box_pooler(maps, [_regions(boxes, image)])
            logits, deltas = heads.box_predictor(heads.box_head(x))
            decoded = heads.box_predictor.box2box_transform.apply_deltas(deltas, boxes)
            return decoded.unflatten(1, (-1, 4)), logits.float().softmax(dim=-1)
        outputs = []
        stages: Any = heads.box_predictor
        for stage, predictor in enumerate(stages):
            if stage > 0:
                boxes = self.arithmetic.clip(boxes, size[image])
            x = heads._box_features(features, [_regions(boxes, image)])
            logits, deltas = predictor(heads.box_head[stage](x))
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes)
            outputs.append(logits.float())
        if heads.score_fusion == "logits":
            scores = (sum(outputs) / len(outputs)).softmax(dim=-1)
        else:
            scores = sum(x.softmax(dim=-1) for x in outputs) / len(outputs)
        return boxes.unflatten(1, (-1, 4)), scores

    def _select(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        image: torch.Tensor,
        size: torch.Tensor,
        score_thresh: torch.Tensor,
        scale: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``fast_rcnn_inference`` of Detectron2."""
        predictor: Any = self.model.roi_heads.box_predictor
        predictor = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
        finite = boxes.isfinite().flatten(1).all(dim=1) & scores.isfinite().all(dim=1)
        scores = scores[:, :-1]
        valid = (scores > score_thresh) & finite[:, None]
        row, classes = bounded(valid.nonzero()).unbind(dim=1)
        boxes = self.arithmetic.clip(boxes, size[image][:, None])
        return self._suppress(
            boxes[row, 0] if boxes.shape[1] == 1 else boxes[row, classes],
            scores[row, classes],
            classes,
            image[row],
            scores.shape[1],
            size,
            scale,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )

    def _masks(
        self,
        features: dict[str, torch.Tensor],
        boxes: torch.Tensor,
        classes: torch.Tensor,
        image: torch.Tensor,
    ) -> torch.Tensor:
        """(D, 28, 28) probabilities: the mean of the stages'."""
        heads = self.model.roi_heads
        regions = _regions(boxes, image)
        if isinstance(heads.mask_head, nn.ModuleList):
            x = heads._mask_features(features, [regions])
            stages = list(heads._test_mask_logits(x))
        else:
            x = heads.mask_pooler([features[n] for n in heads.mask_in_features], [regions])
            stages = [heads.mask_head.layers(x)]
        own = [_own_class(logits, classes).float().sigmoid() for logits in stages]
        return sum(own[1:], own[0]) / len(own)


def _regions(boxes: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """(R, 5) as RoIAlign takes them: the position of the image in the batch, and the box."""
    return torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1)


def _own_class(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(D, K, h, w) to (D, h, w): the channel of each region's class."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    index = classes[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
    return logits.gather(1, index)[:, 0]
