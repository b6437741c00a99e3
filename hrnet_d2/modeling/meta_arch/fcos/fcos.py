"""FCOS: one prediction for each location of a pyramid, no anchors.

Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection",
https://arxiv.org/abs/1904.01355, computed as MMDetection's published models are.
Detectron2's own FCOS (``detectron2.modeling.meta_arch.fcos``) is a different variant.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from hrnet_d2.modeling.arithmetic import check_arithmetic

from .head import FCOSHead, Predictions
from .inference import (
    TOPK_RULES,
    Candidates,
    clip_to_images,
    detect_among,
    find_candidates,
)
from .losses import BOX_LOSSES, fcos_losses
from .targets import assign_locations, level_locations, pad_objects

__all__ = ["FCOS"]


@META_ARCH_REGISTRY.register()
class FCOS(DenseDetector):
    """FCOS on any Detectron2 backbone that returns a pyramid.

    Called like Detectron2's other detectors: a list of dicts, one for each image, gives a dict of
    losses in training and a list of ``{"instances": Instances}`` otherwise.
    """

    arithmetic = "mmdet2"
    finish_boxes = staticmethod(clip_to_images)

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        num_classes: int = 80,
        sizes_of_interest: Sequence[float] = (64, 128, 256, 512),
        box_loss: str = "iou",
        center_sampling_radius: float = 0.0,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_topk_by: str = "pairs",
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float] = (103.53, 116.28, 123.675),
        pixel_std: Sequence[float] = (57.375, 57.12, 58.395),
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        """
        Args:
            backbone: returns a level of features for each range of sizes.
            head: returns logits, distances and centerness as ``FCOSHead`` does.
            head_in_features: names of the levels, finest first; all of the backbone's by default.
            num_classes: C.
            sizes_of_interest: ascending, one less than levels: an object belongs to the level in
                whose range the largest distance from the location to its sides lies.
            box_loss: "iou" (-log IoU), "giou" or "diou".
            center_sampling_radius: only locations within this many strides of an object's center
                are positive; 0 turns it off.
            focal_loss_alpha, focal_loss_gamma: of the classes' loss.
            test_score_thresh: class probability above which a location is a candidate.
            test_topk_candidates: of each level, before non-maximum suppression.
            test_topk_by: what these are: "pairs" of location and class, or "locations".
            test_nms_thresh: IoU above which the detection of the lower score is removed.
            max_detections_per_image: after it; negative is no limit.
            pixel_mean, pixel_std: of each channel of the input.
            input_format: of the channels; needed to draw.
            vis_period: iterations between drawings of an image and its detections; 0 is none.

        Raises:
            ValueError: if an argument does not fit the others.
        """
        shapes = backbone.output_shape()
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        _check_levels(self.head_in_features, shapes)
        sizes = [0.0, *sizes_of_interest, float("inf")]
        if len(sizes) != len(self.head_in_features) + 1 or sizes != sorted(sizes):
            raise ValueError(
                f"FCOS's sizes_of_interest must be ascending and one less than its levels "
                f"{list(self.head_in_features)}, got {list(sizes_of_interest)}"
            )
        if box_loss not in BOX_LOSSES:
            raise ValueError(f"FCOS's box_loss must be one of {list(BOX_LOSSES)}, got {box_loss!r}")
        if test_topk_by not in TOPK_RULES:
            raise ValueError(
                f"MODEL.FCOS.TOPK_BY must be one of {list(TOPK_RULES)}, got {test_topk_by!r}"
            )
        if vis_period > 0 and input_format is None:
            raise ValueError("FCOS needs input_format to draw (vis_period > 0)")
        self.num_classes = num_classes
        self.strides = [shapes[name].stride for name in self.head_in_features]
        self.box_loss = BOX_LOSSES[box_loss]
        self.center_sampling_radius = center_sampling_radius
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_topk_by = test_topk_by
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.input_format = input_format
        self.vis_period = vis_period
        # For each level: its stride, and the least and largest distance of its objects.
        ranges = list(zip(self.strides, sizes[:-1], sizes[1:], strict=True))
        self.register_buffer("level_ranges", torch.tensor(ranges), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if "FCOS" not in cfg.MODEL:
            raise KeyError("cfg.MODEL has no FCOS: call hrnet_d2.add_hrnet_config(cfg) first")
        check_arithmetic(cfg, cls.arithmetic)
        node = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        _check_levels(node.IN_FEATURES, shapes)
        return {
            "backbone": backbone,
            "head": FCOSHead(cfg, [shapes[name] for name in node.IN_FEATURES]),
            "head_in_features": node.IN_FEATURES,
            "num_classes": node.NUM_CLASSES,
            "sizes_of_interest": node.SIZES_OF_INTEREST,
            "box_loss": node.BOX_LOSS,
            "center_sampling_radius": node.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
            "test_topk_by": node.TOPK_BY,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: Predictions,
        gt_instances: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """The losses "loss_fcos_cls", "loss_fcos_loc" and "loss_fcos_ctr".

        Args:
            images: the batch, for drawing.
            features: of each level.
            predictions: of each level, as the head returns them.
            gt_instances: of each image, with ``gt_boxes`` and ``gt_classes``.

        Raises:
            FloatingPointError: if a prediction is infinite or NaN; the message says which.
            ValueError: if an object's class is not in 0 ... C - 1.
        """
        sizes = [x.shape[-2:] for x in features]
        points = level_locations(sizes, self.strides, self.device)
        per_level = zip(self.level_ranges, sizes, strict=True)
        ranges = torch.cat([row.expand(h * w, 3) for row, (h, w) in per_level])  # (P, 3)
        boxes, classes = pad_objects(gt_instances)
        objects, targets = assign_locations(
            points, ranges[:, 0], ranges[:, 1:], boxes, self.center_sampling_radius
        )
        labels = torch.where(objects >= 0, classes.gather(1, objects.clamp(min=0)), -1)

        logits, distances, ctrness = (
            torch.cat([x.flatten(2) for x in xs], 2) for xs in predictions
        )
        losses, num_positive = fcos_losses(
            logits,
            distances.transpose(1, 2),
            ctrness[:, 0],
            labels,
            targets,
            box_loss=self.box_loss,
            focal_loss_alpha=self.focal_loss_alpha,
            focal_loss_gamma=self.focal_loss_gamma,
        )
        # Everything that the host needs in this iteration, copied at once and last. The loss of the
        # classes covers every logit, the other two losses only positive locations.
        finite = torch.stack(
            [
                torch.stack([*losses.values()]).isfinite().all(),
                distances.isfinite().all(),
                ctrness.isfinite().all(),
            ]
        ).all()
        known = ((classes >= 0) & (classes < self.num_classes)).all()
        all_finite, all_known, count = torch.stack([finite, known, num_positive]).tolist()
        if not all_known:
            raise ValueError(
                f"an object's class is outside 0 ... {self.num_classes - 1}: classes "
                f"{sorted(set(classes.flatten().tolist()))}; set MODEL.FCOS.NUM_CLASSES to the "
                "number of classes of the data"
            )
        if not all_finite:
            raise FloatingPointError(self._describe_nonfinite(predictions, losses))
        storage = get_event_storage()
        storage.put_scalar("fcos/num_positive_locations", count / len(gt_instances))
        if self.vis_period > 0 and storage.iter % self.vis_period == 0:
            self._draw(images, features, predictions, gt_instances)
        return losses

    def forward_inference(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: Predictions | Candidates,
    ) -> list[Instances]:
        """Detections of each image, in pixels of the network's input; see ``detect``.

        Args:
            images: the batch.
            features: of each level.
            predictions: as the head returns them, or what :meth:`find_candidates` chose of them.
        """
        if not isinstance(predictions, Candidates):
            predictions = self.find_candidates(features, predictions)
        return detect_among(
            predictions,
            images.image_sizes,
            score_thresh=self.test_score_thresh,
            nms_thresh=self.test_nms_thresh,
            max_detections=self.max_detections_per_image,
            finish_boxes=self.finish_boxes,
        )

    def find_candidates(
        self, features: Sequence[torch.Tensor], predictions: Predictions
    ) -> Candidates:
        """The best predictions of each level, before anything is compared or clipped."""
        points = level_locations([x.shape[-2:] for x in features], self.strides, self.device)
        return find_candidates(
            *predictions, points, topk=self.test_topk_candidates, topk_by=self.test_topk_by
        )

    def _describe_nonfinite(self, predictions: Predictions, losses: dict[str, torch.Tensor]) -> str:
        """Which predictions are infinite or NaN; slow, only for the error message."""
        found = []
        for what, levels in zip(("class", "box", "centerness"), predictions, strict=True):
            for name, level in zip(self.head_in_features, levels, strict=True):
                bad = (~level.isfinite()).flatten(1).sum(dim=1).tolist()
                found += [
                    f"{count} of {level[0].numel()} {what} predictions of {name} in image {i}"
                    for i, count in enumerate(bad)
                    if count
                ]
        where = "; ".join(found) or ", ".join(f"{k} = {float(v)}" for k, v in losses.items())
        return (
            f"FCOS's predictions contain inf or NaN (images count from 0 in the batch): {where}. "
            "Training has diverged: lower SOLVER.BASE_LR, clip the gradient "
            "(SOLVER.CLIP_GRADIENTS) or check the weights that training started from"
        )

    @torch.no_grad()
    def _draw(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: Predictions,
        gt_instances: list[Instances],
    ) -> None:
        """Write the first image with its objects and detections to the event storage."""
        results = self.forward_inference(images, features, predictions)
        image = (images[0] * self.pixel_std + self.pixel_mean).round().clamp(0, 255)
        inputs = {"image": image.byte().cpu(), "instances": gt_instances[0].to("cpu")}
        self.visualize_training([inputs], results[:1])


def _check_levels(names: Sequence[str], shapes: dict[str, ShapeSpec]) -> None:
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ValueError(
            f"FCOS's levels {missing} are not among the backbone's {sorted(shapes)}. With "
            "HRNetV2p, p3 ... p7 need MODEL.HRNETV2P.NECK.STRIDE: 2"
        )
