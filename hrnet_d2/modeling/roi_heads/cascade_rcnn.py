"""ROI heads of Cascade R-CNN and Cascade Mask R-CNN, as MMDetection trains and runs them.

Cai & Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
https://arxiv.org/abs/1712.00726. Follows MMDetection's ``CascadeRoIHead``. Each difference from
Detectron2's ``CascadeROIHeads`` is an argument, and its stock value gives Detectron2's behavior.

R = number of boxes of all images, K = number of classes, S = number of stages.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_mask_head
from detectron2.modeling.roi_heads import CascadeROIHeads, select_foreground_proposals
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import nn
from torchvision.ops import clip_boxes_to_image

from hrnet_d2.modeling.matcher import MaxIoUMatcher

from .detections import DetectionRule, build_detection_rule, detectron2_rule
from .matched_masks import MatchedMasks
from .roi_heads import MaxIoUSampling

__all__ = ["MaxIoUCascadeROIHeads"]

SCORE_FUSIONS = ("logits", "probabilities")


@ROI_HEADS_REGISTRY.register()
class MaxIoUCascadeROIHeads(MaxIoUSampling, CascadeROIHeads):
    """A cascade of box heads and, with masks, a mask head for each stage.

    At test the class scores of the stages are fused, the boxes are the last stage's, and the
    masks of the detections are the mean of the stages' probabilities.
    """

    @configurable
    def __init__(
        self,
        *,
        stage_loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        score_fusion: str = "logits",
        resample: bool = True,
        feature_gradient_scale: float = 1.0,
        mask_head: Sequence[nn.Module] | None = None,
        detection_rule: DetectionRule = detectron2_rule,
        **kwargs: Any,
    ):
        """
        Args:
            stage_loss_weights: S factors on the losses of each stage; stock: 1, 1, 1.
            score_fusion: average the "logits" of the stages, or their "probabilities" (stock).
            resample: assign and sample proposals again at each stage. The ground truth is added
                to the sample, but not passed on to the next stage. Stock: the first stage's
                sample, ground truth included, is refined and assigned again.
            feature_gradient_scale: factor on the box heads' gradient into the features; stock:
                1 / S.
            mask_head: S mask heads with ``layers(x)`` as ``BaseMaskRCNNHead``; stock has one.
            detection_rule: selects the detections; Detectron2's by default.
            kwargs: of Detectron2's ``CascadeROIHeads``.

        Raises:
            ValueError: if an argument is not one of the above.
        """
        heads = None if mask_head is None else nn.ModuleList(mask_head)
        super().__init__(mask_head=heads, **kwargs)
        stages = self.num_cascade_stages
        if score_fusion not in SCORE_FUSIONS:
            raise ValueError(f"score_fusion must be one of {SCORE_FUSIONS}, got {score_fusion!r}")
        if len(stage_loss_weights) != stages:
            raise ValueError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS must have one weight for each of "
                f"the {stages} stages, got {list(stage_loss_weights)}"
            )
        if self.mask_on and (heads is None or len(heads) != stages):
            raise ValueError(
                f"a cascade of {stages} stages needs {stages} mask heads, got "
                f"{0 if heads is None else len(heads)}"
            )
        if self.mask_on and self.mask_pooler is None:
            raise ValueError("the mask heads of a cascade need MODEL.ROI_MASK_HEAD.POOLER_TYPE")
        self.stage_loss_weights = tuple(stage_loss_weights)
        self.score_fusion = score_fusion
        self.resample = resample
        self.feature_gradient_scale = feature_gradient_scale
        self.detection_rule = detection_rule

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret: dict[str, Any] = super().from_config(cfg, input_shape)
        cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        ret["proposal_matchers"] = [
            # MMDetection's configs set the least IoU to the threshold of a positive.
            MaxIoUMatcher([iou], [0, 1], cfg.MODEL.ROI_HEADS.MATCH_LOW_QUALITY, min_pos_iou=iou)
            for iou in cascade.IOUS
        ]
        ret["stage_loss_weights"] = cascade.STAGE_LOSS_WEIGHTS
        ret["score_fusion"] = cascade.SCORE_FUSION
        ret["resample"] = cascade.RESAMPLE
        ret["feature_gradient_scale"] = cascade.FEATURE_GRADIENT_SCALE
        ret["detection_rule"] = build_detection_rule(cfg)
        return ret

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret: dict[str, Any] = super()._init_mask_head(cfg, input_shape)
        if ret and ret["mask_pooler"] is not None:
            size = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
            channels = input_shape[ret["mask_in_features"][0]].channels
            shape = ShapeSpec(channels=channels, width=size, height=size)
            stages = range(len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS))
            ret["mask_head"] = [cls._build_mask_head(cfg, shape, stage) for stage in stages]
        return ret

    @classmethod
    def _build_mask_head(cls, cfg: CfgNode, input_shape: ShapeSpec, stage: int) -> nn.Module:
        """The mask head of a stage."""
        return build_mask_head(cfg, input_shape)

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """As ``ROIHeads.forward`` of Detectron2.

        Returns:
            In training the proposals and the losses ``loss_cls_stage{s}``,
            ``loss_box_reg_stage{s}`` and, with masks, ``loss_mask_stage{s}``; at test detections
            with ``pred_boxes``, ``scores``, ``pred_classes`` and, with masks, ``pred_masks``.
        """
        if not self.training:
            return super().forward(images, features, proposals)
        assert targets is not None, "'targets' are required in training"
        return proposals, self._losses(features, proposals, targets)

    # ------------------------------------------------------------------ features of regions

    def _box_features(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """(R, C, 7, 7): what the box heads read."""
        return self.box_pooler([features[name] for name in self.box_in_features], boxes)

    def _mask_features(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """(R, C, 14, 14): what the mask heads read."""
        return self.mask_pooler([features[name] for name in self.mask_in_features], boxes)

    def _run_stage(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, K + 1) logits and (R, 4) deltas of a stage's box head."""
        x = self._box_features(features, [p.proposal_boxes for p in proposals])
        if self.training and self.feature_gradient_scale != 1.0:
            x = _ScaleGradient.apply(x, self.feature_gradient_scale)
        return self.box_predictor[stage](self.box_head[stage](x))

    def _create_proposals_from_boxes(
        self, boxes: Sequence[torch.Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Decoded boxes, clipped and without gradient, as the next stage's proposals."""
        proposals = []
        for boxes_i, size in zip(boxes, image_sizes, strict=True):
            # Boxes.clip checks for infinite values, which synchronizes with the device.
            clipped = Boxes(clip_boxes_to_image(boxes_i.detach(), size))
            if self.training and not self.resample:
                clipped = clipped[clipped.nonempty()]
            proposals.append(Instances(size, proposal_boxes=clipped))
        return proposals

    # ------------------------------------------------------------------ training

    def _losses(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> dict[str, torch.Tensor]:
        storage = get_event_storage()
        losses: dict[str, torch.Tensor] = {}
        for stage, weight in enumerate(self.stage_loss_weights):
            with storage.name_scope(f"stage{stage}"):
                sample = self._label_stage(proposals, targets, stage)
                predictions = self._run_stage(features, sample, stage)
                stage_losses = self.box_predictor[stage].losses(predictions, sample)
                proposals = self._refine(predictions, sample, stage)
                if self.mask_on:
                    mask_sample = self._mask_sample(sample, proposals, targets, stage)
                    stage_losses["loss_mask"] = self._mask_loss(features, mask_sample, stage)
                if stage == 0:
                    stage_losses.update(self._forward_keypoint(features, sample))
            for name, loss in stage_losses.items():
                losses[f"{name}_stage{stage}"] = loss * weight
        return losses

    def _label_stage(
        self, proposals: list[Instances], targets: list[Instances], stage: int
    ) -> list[Instances]:
        """The proposals that a stage learns from, with ``gt_*`` fields."""
        if stage == 0 or self.resample:
            return self.sample_proposals(proposals, targets, self.proposal_matchers[stage])
        return self._relabel(proposals, targets, stage)

    @torch.no_grad()
    def _relabel(
        self, proposals: list[Instances], targets: list[Instances], stage: int
    ) -> list[Instances]:
        """Assign ground truth to all proposals and keep all, as Detectron2 does after stage 0."""
        for proposals_i, targets_i in zip(proposals, targets, strict=True):
            iou = pairwise_iou(targets_i.gt_boxes, proposals_i.proposal_boxes)
            matches, labels = self.proposal_matchers[stage](iou)
            if not len(targets_i):
                proposals_i.gt_classes = torch.full_like(matches, self.num_classes)
                continue
            for name, value in targets_i.get_fields().items():
                if name == "gt_classes":
                    value = value[matches].masked_fill(labels == 0, self.num_classes)
                elif isinstance(value, BitMasks):
                    value = MatchedMasks(value, matches)
                else:
                    value = value[matches]
                proposals_i.set(name, value)
        return proposals

    @torch.no_grad()
    def _refine(
        self, predictions: tuple[torch.Tensor, torch.Tensor], sample: list[Instances], stage: int
    ) -> list[Instances]:
        """The sample's boxes as the stage refines them, without those that were ground truth."""
        boxes = self.box_predictor[stage].predict_boxes(predictions, sample)
        if self.resample:
            boxes = [b[~s.is_gt] for b, s in zip(boxes, sample, strict=True)]
        return self._create_proposals_from_boxes(boxes, [s.image_size for s in sample])

    def _mask_sample(
        self,
        sample: list[Instances],
        refined: list[Instances],
        targets: list[Instances],
        stage: int,
    ) -> list[Instances]:
        """The proposals that a stage's mask head learns from: here those of its box head."""
        return sample

    def _mask_loss(
        self, features: dict[str, torch.Tensor], sample: list[Instances], stage: int
    ) -> torch.Tensor:
        """Mean binary cross entropy of the positives' own class; 0 if there are no positives."""
        positives, _ = select_foreground_proposals(sample, self.num_classes)
        x = self._mask_features(features, [p.proposal_boxes for p in positives])
        head = self.mask_head[stage]
        loss = mask_rcnn_loss(self._mask_logits(x, stage), positives, head.vis_period)
        return loss * head.loss_weight

    def _mask_logits(self, x: torch.Tensor, stage: int) -> torch.Tensor:
        """(R, K, 28, 28) of one stage's mask head."""
        return self.mask_head[stage].layers(x)

    # ------------------------------------------------------------------ test

    def _forward_box(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> list[Instances]:
        """Detections of each image, without masks."""
        assert not self.training, "the losses of a cascade are computed in _losses"
        boxes, scores = self.predict_boxes(features, proposals)
        predictor = self.box_predictor[-1]
        return self.detection_rule(
            boxes,
            scores,
            [p.image_size for p in proposals],
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )

    def predict_boxes(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """What the cascade makes of every proposal, at test.

        Returns:
            For each image the last stage's boxes (R, 4), in pixels of the network's input and not
            clipped; and the fused probabilities (R, K + 1), the background last.
        """
        sizes = [p.image_size for p in proposals]
        outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        boxes: Sequence[torch.Tensor] = ()
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
            predictions = self._run_stage(features, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            outputs.append(predictions)
        return boxes, self._fuse_scores(outputs, proposals)

    def _fuse_scores(
        self, outputs: list[tuple[torch.Tensor, torch.Tensor]], proposals: list[Instances]
    ) -> Sequence[torch.Tensor]:
        """(R, K + 1) probabilities for each image, from the predictions of every stage."""
        last = self.box_predictor[-1]
        if self.score_fusion == "logits":
            mean = sum(logits.float() for logits, _ in outputs) / len(outputs)
            return last.predict_probs((mean, None), proposals)
        stages = [
            predictor.predict_probs(predictions, proposals)
            for predictor, predictions in zip(self.box_predictor, outputs, strict=True)
        ]
        return [sum(scores) / len(scores) for scores in zip(*stages, strict=True)]

    def _forward_mask(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add ``pred_masks`` to ``instances``, which have ``pred_boxes`` and ``pred_classes``.

        The regions are pooled once, for all heads. Masks are probabilities (R, 1, 28, 28).
        """
        assert not self.training, "the losses of the masks are computed in _mask_loss"
        if not self.mask_on:
            return instances
        x = self._mask_features(features, [i.pred_boxes for i in instances])
        classes = torch.cat([i.pred_classes for i in instances])
        stages = [_own_class(logits, classes).sigmoid() for logits in self._test_mask_logits(x)]
        masks = sum(stages[1:], stages[0]) / len(stages)
        sizes = [len(i) for i in instances]
        for instances_i, masks_i in zip(instances, masks.split(sizes), strict=True):
            instances_i.pred_masks = masks_i
        return instances

    def _test_mask_logits(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """(R, K, 28, 28) of each mask head whose probabilities are averaged."""
        for head in self.mask_head:
            yield head.layers(x)


def _own_class(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(R, K, h, w) to (R, 1, h, w): the channel of each region's class."""
    if logits.shape[1] == 1:  # one class, or class-agnostic masks
        return logits
    index = classes[:, None, None, None].expand(-1, 1, *logits.shape[2:])
    return logits.gather(1, index)
