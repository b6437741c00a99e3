"""Test-time augmentation: an image at several sizes and mirrored, with merged detections.

``TEST.AUG`` of the config says which sizes.  The R-CNN families run in Detectron2's
``GeneralizedRCNNWithTTA``: the detections of all augmented images are merged by NMS, and the masks
of the merged boxes are averaged over the augmented images.  One-stage detectors merge in the same
way, as MMDetection 3.x does (``DetTTAModel``).
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from detectron2.modeling.meta_arch import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import clip_boxes_to_image

from hrnet_d2.config_file import ConfigError
from hrnet_d2.data.augmentation import build_augmentation
from hrnet_d2.data.transforms import OpenCVResizeTransform
from hrnet_d2.modeling.roi_heads.detections import Suppress, SuppressionRule, hard_nms

from .optimize import running, to_float32

__all__ = ["DenseDetectorWithTTA", "RCNNWithTTA", "TTAMapper", "build_tta", "without_resize"]


def build_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model`` with the augmentations of ``cfg.TEST.AUG``.

    Give it images at the size of their file (:func:`without_resize`), which are resized once.
    Images that were resized before are resized again, as in Detectron2.

    Args:
        cfg: the config of the model.
        model: an R-CNN or a ``DenseDetector`` (FCOS, RetinaNet), optimized or not, or wrapped for
            distributed training; it is shared, not copied.

    Returns:
        A module that is called like ``model`` and gives the same outputs.

    Raises:
        ConfigError: if there is no test-time augmentation for such a model.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    reason = None
    if getattr(model, "arithmetic", "mmdet2") == "mmdet1":
        reason = "MODEL.ARITHMETIC 'mmdet1' (checkpoints of MMDetection 1.x)"
    elif cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        reason = "MODEL.KEYPOINT_ON or MODEL.LOAD_PROPOSALS"
    elif isinstance(model, GeneralizedRCNN) and not isinstance(model, PanopticFPN):
        return RCNNWithTTA(cfg, model)
    elif isinstance(model, DenseDetector):
        return DenseDetectorWithTTA(cfg, model)
    reason = reason or f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r}"
    raise ConfigError(
        f"TEST.AUG.ENABLED is True, but there is no test-time augmentation for {reason}: set "
        "TEST.AUG.ENABLED False"
    )


def without_resize(cfg: CfgNode) -> CfgNode:
    """``cfg`` for loaders that give images at the size of their file."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


class TTAMapper(DatasetMapperTTA):
    """Detectron2's ``DatasetMapperTTA`` with the resize of ``INPUT.BACKEND``."""

    @configurable
    def __init__(self, *, resizes: Sequence[T.Augmentation], flip: bool):
        """
        Args:
            resizes: one augmentation for each size.
            flip: add the mirrored image of each size.
        """
        self.resizes = list(resizes)
        self.flip = flip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "resizes": [_resize(cfg, size) for size in cfg.TEST.AUG.MIN_SIZES],
            "flip": cfg.TEST.AUG.FLIP,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Args:
            dataset_dict: an input of the model: "image", (3, H, W) uint8, and the "height" and
                "width" of its file.

        Returns:
            For each size the input with the resized image and, with ``flip``, the one with its
            mirror image. "transforms" lead from the file's pixels to the image's.
        """
        image = dataset_dict["image"].permute(1, 2, 0).numpy()
        file_size = dataset_dict["height"], dataset_dict["width"]
        before: Transform = NoOpTransform()
        if image.shape[:2] != file_size:
            before = OpenCVResizeTransform(*file_size, *image.shape[:2])
        augmented = []
        for resize in self.resizes:
            resized = resize.get_transform(image)
            # Channels first and contiguous, as the test loader gives images.
            pixels = torch.from_numpy(resized.apply_image(image).transpose(2, 0, 1).copy())
            flips: list[Transform] = [HFlipTransform(pixels.shape[2])] if self.flip else []
            augmented.append(
                {**dataset_dict, "image": pixels, "transforms": T.TransformList([before, resized])}
            )
            for flip in flips:
                transforms = T.TransformList([before, resized, flip])
                augmented.append(
                    {**dataset_dict, "image": pixels.flip(2), "transforms": transforms}
                )
        return augmented


def _resize(cfg: CfgNode, size: int) -> T.Augmentation:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = size, cfg.TEST.AUG.MAX_SIZE
    (resize,) = build_augmentation(cfg, is_train=False)
    return resize


def _batch_size(mapper: TTAMapper) -> int:
    """An image and its mirror image run together, and nothing else.

    Images of different sizes would be padded to a common one, which changes their results.
    """
    return 2 if mapper.flip else 1


class RCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's ``GeneralizedRCNNWithTTA`` for Faster, Mask and Cascade R-CNN and HTC.

    Soft-NMS, if the ROI heads use it, is applied once, to the candidates of all augmented images.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        """
        Args:
            cfg: the config of the model.
            model: a ``GeneralizedRCNN``.
        """
        mapper = TTAMapper(cfg)
        super().__init__(cfg, model, mapper, _batch_size(mapper))
        self.train(self.model.training)  # an optimized model is never in training mode

    @torch.no_grad()
    def __call__(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As ``GeneralizedRCNN.forward`` at test."""
        outputs: list[dict[str, Any]] = super().__call__(batched_inputs)
        return outputs

    def _inference_one_image(self, input: dict[str, Any]) -> dict[str, Any]:
        size = input["height"], input["width"]
        augmented, transforms = self._get_augmented_inputs(input)
        if len(augmented) == 1:  # nothing to merge
            with running(self.model):
                (output,) = self.model.inference(augmented)
            to_float32(output["instances"])
            return output
        with self._turn_off_roi_heads(["mask_on"]), _candidates(self.model.roi_heads) as suppress:
            found = self._batch_inference(augmented)
        merged = _merge(
            found,
            transforms,
            size,
            suppress,
            self.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            self.cfg.TEST.DETECTIONS_PER_IMAGE,
        )
        if self.cfg.MODEL.MASK_ON:
            boxes = self._rescale_detected_boxes(augmented, merged, transforms)
            with_masks = self._batch_inference(augmented, boxes)
            merged.pred_masks = self._reduce_pred_masks(with_masks, transforms)
        return {"instances": detector_postprocess(merged, *size)}

    def _batch_inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
    ) -> list[Instances]:
        with running(self.model):
            outputs: list[Instances] = super()._batch_inference(batched_inputs, detected_instances)
        for output in outputs:
            to_float32(output)
        return outputs

    @contextlib.contextmanager
    def _turn_off_roi_heads(self, attrs: Sequence[str]) -> Iterator[None]:
        """As Detectron2's, which leaves the heads off when the network raises."""
        heads = self.model.roi_heads
        before = {name: getattr(heads, name) for name in attrs if hasattr(heads, name)}
        try:
            for name in before:
                setattr(heads, name, False)
            yield
        finally:
            for name, value in before.items():
                setattr(heads, name, value)


class DenseDetectorWithTTA(nn.Module):
    """A one-stage detector, such as FCOS, that merges the boxes of augmented images by its NMS."""

    def __init__(self, cfg: CfgNode, model: nn.Module):
        """
        Args:
            cfg: the config of the model.
            model: a ``DenseDetector`` with ``test_nms_thresh`` and ``max_detections_per_image``.
        """
        super().__init__()
        self.model: Any = model
        self.tta_mapper = TTAMapper(cfg)
        self.batch_size = _batch_size(self.tta_mapper)
        self.train(model.training)  # an optimized model is never in training mode

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As ``DenseDetector.forward`` at test."""
        return [self._detect(entry) for entry in batched_inputs]

    def _detect(self, entry: dict[str, Any]) -> dict[str, Any]:
        augmented = self.tta_mapper(entry)
        if len(augmented) == 1:  # nothing to merge
            (output,) = self.model(augmented)
            return output
        # Without the size of the file, detections stay in the pixels of the augmented image.
        inputs = [{"image": each["image"]} for each in augmented]
        found: list[Instances] = []
        for start in range(0, len(inputs), self.batch_size):
            outputs = self.model(inputs[start : start + self.batch_size])
            found += [output["instances"] for output in outputs]
        size = entry["height"], entry["width"]
        merged = _merge(
            found,
            [each["transforms"] for each in augmented],
            size,
            hard_nms,
            self.model.test_nms_thresh,
            self.model.max_detections_per_image,
        )
        return {"instances": detector_postprocess(merged, *size)}


def _merge(
    found: Sequence[Instances],
    transforms: Sequence[T.TransformList],
    size: tuple[int, int],
    suppress: Suppress,
    nms_thresh: float,
    topk: int,
) -> Instances:
    """The detections of augmented images, as detections of the image.

    Args:
        found: of each augmented image, in its pixels.
        transforms: from the image to each augmented image.
        size: height and width of the image.
        suppress, nms_thresh, topk: how detections of one object are merged, and how many stay.
    """
    boxes = torch.cat(
        [
            _transformed(instances.pred_boxes.tensor, transform.inverse())
            for instances, transform in zip(found, transforms, strict=True)
        ]
    )
    boxes = clip_boxes_to_image(boxes, size)
    scores = torch.cat([instances.scores for instances in found])
    classes = torch.cat([instances.pred_classes for instances in found])
    keep, scores = suppress(boxes, scores, classes, nms_thresh, topk)
    merged = Instances(size)
    merged.pred_boxes = Boxes(boxes[keep])
    merged.scores = scores
    merged.pred_classes = classes[keep]
    return merged


def _transformed(boxes: torch.Tensor, transform: Transform) -> torch.Tensor:
    moved = torch.from_numpy(transform.apply_box(boxes.cpu().numpy()))
    return moved.to(boxes)


@contextlib.contextmanager
def _candidates(roi_heads: nn.Module) -> Iterator[Suppress]:
    """How the ROI heads suppress detections; those with Soft-NMS return candidates meanwhile.

    Scores that Soft-NMS has reduced must not be reduced again. The usual NMS changes nothing when
    it is repeated.
    """
    rule: Any = getattr(roi_heads, "detection_rule", None)
    if not isinstance(rule, SuppressionRule):
        yield hard_nms
        return
    heads: Any = roi_heads
    heads.detection_rule = SuppressionRule(_keep_all)
    try:
        yield rule.suppress
    finally:
        heads.detection_rule = rule


def _keep_all(
    boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, iou: float, topk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    scores, order = scores.sort(descending=True, stable=True)
    return order, scores
