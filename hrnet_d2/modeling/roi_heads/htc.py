"""Hybrid Task Cascade: a cascade whose box and mask branches are interleaved.

Chen et al., "Hybrid Task Cascade for Instance Segmentation", https://arxiv.org/abs/1901.07518.
Follows MMDetection's ``HybridTaskCascadeRoIHead``: the mask head of a stage learns on the boxes
that the stage itself has refined, and adds the features of the mask head before to its own; an
optional semantic branch adds its embedding to the features of boxes and masks.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from .cascade_rcnn import MaxIoUCascadeROIHeads
from .htc_mask_head import HTCMaskHead
from .semantic_head import FusedSemanticHead

__all__ = ["HTCROIHeads"]

# Name of the semantic embedding among the pyramid's levels.
SEMANTIC = "semantic"
MASK_TESTS = ("avg", "last")


@ROI_HEADS_REGISTRY.register()
class HTCROIHeads(MaxIoUCascadeROIHeads):
    """Cascade ROI heads with interleaved masks, mask information flow and a semantic branch."""

    @configurable
    def __init__(
        self,
        *,
        semantic_head: nn.Module | None = None,
        semantic_pooler: ROIPooler | None = None,
        mask_test: str = "avg",
        **kwargs: Any,
    ):
        """
        Args:
            semantic_head: the semantic branch; None is HTC without it.
            semantic_pooler: pools the branch's embedding; needed with it.
            mask_test: masks at test: "avg" of the stages' probabilities (MMDetection 2.x, the
                published numbers) or those of the "last" stage alone (3.x).
            kwargs: of :class:`MaxIoUCascadeROIHeads`; mask heads are :class:`HTCMaskHead`.

        Raises:
            ValueError: if an argument is not one of the above.
        """
        super().__init__(**kwargs)
        if mask_test not in MASK_TESTS:
            raise ValueError(f"MODEL.HTC.MASK_TEST must be one of {MASK_TESTS}, got {mask_test!r}")
        if semantic_head is not None and semantic_pooler is None:
            raise ValueError("the semantic branch needs a semantic_pooler")
        if self.mask_on and not all(isinstance(head, HTCMaskHead) for head in self.mask_head):
            names = sorted({type(head).__name__ for head in self.mask_head})
            raise ValueError(f"HTC's mask heads must be HTCMaskHead, got {', '.join(names)}")
        self.semantic_head = semantic_head
        self.semantic_pooler = semantic_pooler
        self.mask_test = mask_test

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret = super().from_config(cfg, input_shape)
        ret["mask_test"] = cfg.MODEL.HTC.MASK_TEST
        if cfg.MODEL.HTC.SEMANTIC_ON:
            head = FusedSemanticHead(cfg, input_shape)
            ret["semantic_head"] = head
            ret["semantic_pooler"] = ROIPooler(
                output_size=cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION,
                scales=[1.0 / head.common_stride],
                sampling_ratio=cfg.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO,
                pooler_type=cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE,
            )
        return ret

    @classmethod
    def _build_mask_head(cls, cfg: CfgNode, input_shape: ShapeSpec, stage: int) -> nn.Module:
        head = ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)
        if not issubclass(head, HTCMaskHead):
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.NAME must be 'HTCMaskHead' for HTC, got {head.__name__!r}"
            )
        return head(cfg, input_shape, with_conv_res=stage > 0)

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """As :meth:`MaxIoUCascadeROIHeads.forward`; in training also ``loss_sem_seg``.

        With a semantic branch, ``images`` is a ``SemanticImageList`` in training.
        """
        losses: dict[str, torch.Tensor] = {}
        if self.semantic_head is not None:
            features, losses = self._with_semantic(features, getattr(images, "sem_seg", None))
        output, cascade_losses = super().forward(images, features, proposals, targets)
        return output, {**cascade_losses, **losses}

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """As ``StandardROIHeads.forward_with_given_boxes``."""
        if self.semantic_head is not None and SEMANTIC not in features:
            features, _ = self._with_semantic(features)
        return super().forward_with_given_boxes(features, instances)

    def _with_semantic(
        self, features: dict[str, torch.Tensor], sem_seg: torch.Tensor | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The features and the semantic embedding; in training, the branch's loss."""
        assert self.semantic_head is not None
        embedding, losses = self.semantic_head(features, sem_seg)
        return {**features, SEMANTIC: embedding}, losses

    # ------------------------------------------------------------------ features of regions

    def _add_semantic(
        self, x: torch.Tensor, features: dict[str, torch.Tensor], boxes: list[Boxes]
    ) -> torch.Tensor:
        """Add the regions' semantic embedding to their features ``x``, (R, C, h, w)."""
        if self.semantic_pooler is None:
            return x
        pooled = self.semantic_pooler([features[SEMANTIC]], boxes)
        if pooled.shape[-2:] != x.shape[-2:]:
            # int(): the TorchScript tracer has tensors here.
            pooled = F.adaptive_avg_pool2d(pooled, (int(x.shape[-2]), int(x.shape[-1])))
        return x + pooled

    def _box_features(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        return self._add_semantic(super()._box_features(features, boxes), features, boxes)

    def _mask_features(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        return self._add_semantic(super()._mask_features(features, boxes), features, boxes)

    # ------------------------------------------------------------------ masks

    def _mask_sample(
        self,
        sample: list[Instances],
        refined: list[Instances],
        targets: list[Instances],
        stage: int,
    ) -> list[Instances]:
        """The boxes that the stage refined, assigned and sampled again by its own threshold."""
        return self.sample_proposals(
            refined, targets, self.proposal_matchers[stage], suffix="_mask"
        )

    def _mask_logits(self, x: torch.Tensor, stage: int) -> torch.Tensor:
        """(R, K, 28, 28) of a stage; the gradient also reaches the heads before it."""
        return next(self._flow(x, (stage,)))

    def _test_mask_logits(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each head runs once: its features serve its own masks and the next head."""
        last = len(self.mask_head) - 1
        return self._flow(x, range(last + 1) if self.mask_test == "avg" else (last,))

    def _flow(self, x: torch.Tensor, stages: Sequence[int]) -> Iterator[torch.Tensor]:
        """Pass the regions (R, C, 14, 14) through the heads; yield the logits of ``stages``."""
        seen = None
        for stage in range(max(stages) + 1):
            head = self.mask_head[stage]
            seen = head.features(x, seen)
            if stage in stages:
                yield head.predict(seen)
