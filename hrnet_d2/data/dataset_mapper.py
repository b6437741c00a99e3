"""From dataset records and images in memory to the inputs of the networks."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode
from fvcore.transforms.transform import Transform

from .augmentation import build_augmentation
from .cropping import CropAroundObject
from .image_io import (
    MAX_PIXELS,
    ImageReadError,
    check_image_size,
    read_image,
    read_label_map,
)
from .masks import check_segmentation, check_segmentations, rasterize
from .mixing import Mixing, Sample

__all__ = ["HRNetDatasetMapper", "InferenceInput", "check_image", "uses_semantic_maps"]


def uses_semantic_maps(cfg: CfgNode) -> bool:
    """Whether training of this model reads semantic maps: HTC with its semantic branch."""
    return cfg.MODEL.META_ARCHITECTURE == "HybridTaskCascade" and cfg.MODEL.HTC.SEMANTIC_ON


class HRNetDatasetMapper(DatasetMapper):
    """Detectron2's mapper with MMDetection's image reading, resizing, masks and filtering of boxes.

    For training and test loaders. Images stay uint8 until the network normalizes them on its
    device: the values are the same, and a quarter of the bytes is copied.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | Transform],
        image_format: str,
        backend: str = "opencv",
        min_box_size: float = 1.0,
        use_sem_seg: bool = False,
        sem_seg_classes: int = 183,
        sem_seg_ignore: int = 255,
        max_pixels: int = MAX_PIXELS,
        mixing: Mixing | None = None,
        **base: Any,
    ):
        """
        Args:
            is_train: return annotations along with the image.
            augmentations: applied to the image and all that goes with it.
            image_format: order of the channels, "BGR" or "RGB".
            backend: "opencv" or "detectron2", the library that reads images. With "opencv" and
                bitmap masks, polygons are rasterized at the size of the image file and the bitmaps
                go through the augmentations, as in MMDetection; otherwise as in Detectron2.
            min_box_size: boxes that are narrower or shorter, in pixels of the file, or outside
                the image are dropped (MMDetection's ``CocoDataset``); 0 keeps all boxes.
            use_sem_seg: read the semantic maps of records that have a "sem_seg_file_name".
            sem_seg_classes: number of classes of the maps; labels are less than it,
            sem_seg_ignore: or equal to this value, which the loss ignores.
            max_pixels: images with more pixels are refused before they are decoded.
            mixing: in training, makes a sample of several; :meth:`mix_with` gives it the others.
            base: the other arguments of Detectron2's ``DatasetMapper``.
        """
        super().__init__(
            is_train, augmentations=list(augmentations), image_format=image_format, **base
        )
        self.backend = backend
        self.min_box_size = min_box_size
        self.use_sem_seg = use_sem_seg and is_train
        self.sem_seg_classes = sem_seg_classes
        self.sem_seg_ignore = sem_seg_ignore
        self.max_pixels = max_pixels
        self.mixing = mixing if is_train else None
        self._others: Sequence[dict] = ()
        self._around_objects = any(isinstance(a, CropAroundObject) for a in augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        arguments = super().from_config(cfg, is_train)
        arguments.update(
            augmentations=build_augmentation(cfg, is_train),
            backend=cfg.INPUT.BACKEND,
            min_box_size=cfg.INPUT.MIN_BOX_SIZE,
            use_sem_seg=uses_semantic_maps(cfg),
            sem_seg_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            sem_seg_ignore=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            max_pixels=cfg.INPUT.MAX_PIXELS,
        )
        if is_train:
            arguments["mixing"] = Mixing.from_config(cfg)
            if cfg.INPUT.SCALE_JITTER.ENABLED or arguments["mixing"] is not None:
                # As Detectron2 does for INPUT.CROP: the boxes of parts of objects.
                arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        return arguments

    def mix_with(self, records: Sequence[dict]) -> None:
        """Give the records from which mosaic and copy-paste take other images."""
        self._others = records

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: a record in Detectron2's format; it is not modified.

        Returns:
            The record without its annotations, and with "image", (3, H, W) uint8, "height" and
            "width" of the file; in training also "instances" and, if the record has a map and the
            model uses it, "sem_seg", (H, W) int64.

        Raises:
            FileNotFoundError: if the image or the map is missing.
            ImageReadError: if one of them cannot be decoded, or their sizes differ.
            SizeMismatchError: if the image's size is not the annotation's.
            ValueError: if an annotation is unusable; the message names the image.
        """
        _keep_to_one_thread_in_workers()
        record = dict(dataset_dict)
        annotations = record.pop("annotations", None)
        image, sem_seg = self._read(record, annotated=annotations is not None)
        if self.mixing is not None and annotations is not None:
            first = Sample(image, self._usable(annotations, record), sem_seg)
            mixed = self.mixing(first, self._random_sample)
            image, annotations, sem_seg = mixed.image, mixed.annotations, mixed.sem_seg
            record["height"], record["width"] = image.shape[:2]

        inputs = T.AugInput(image, sem_seg=sem_seg)
        if self._around_objects:
            inputs.boxes = self._boxes(annotations or [], record)
        transforms = self.augmentations(inputs)
        image_shape = inputs.image.shape[:2]
        record["image"] = _to_tensor(inputs.image)
        if inputs.sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                record, image_shape, transforms, proposal_topk=self.proposal_topk
            )
        if self.is_train and annotations is not None:
            record["annotations"] = annotations
            self._transform_annotations(record, transforms, image_shape)
        return record

    def _read(self, record: dict, *, annotated: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The image and the semantic map, if it is used. ``record`` loses the name of the map, and
        gains the image's size."""
        sem_seg_file = record.pop("sem_seg_file_name", None)
        image = read_image(
            record["file_name"],
            self.image_format,
            self.backend,
            self.max_pixels,
            annotated=annotated,
        )
        check_image_size(record, image)
        if self.use_sem_seg and sem_seg_file is not None:
            return image, self._read_sem_seg(sem_seg_file, record)
        return image, None

    def _random_sample(self) -> Sample:
        """Another image, for mosaic and copy-paste."""
        if not len(self._others):
            raise ValueError(
                "Mosaic and copy-paste (INPUT.MOSAIC, INPUT.COPY_PASTE) take other images: give "
                "the mapper the records of the dataset by mix_with()"
            )
        record = dict(self._others[np.random.randint(len(self._others))])
        annotations = record.pop("annotations", [])
        image, sem_seg = self._read(record, annotated=True)
        return Sample(image, self._usable(annotations, record), sem_seg)

    def _usable(self, annotations: list[dict], record: dict) -> list[dict]:
        """Those that training keeps, with boxes as corners in floats."""
        size = record["height"], record["width"]
        _check_finite(annotations, record["file_name"])
        return [
            {
                **annotation,
                "bbox": BoxMode.convert(
                    [float(v) for v in annotation["bbox"]],
                    annotation["bbox_mode"],
                    BoxMode.XYXY_ABS,
                ),
                "bbox_mode": BoxMode.XYXY_ABS,
            }
            for annotation in annotations
            if self._is_usable(annotation, *size)
        ]

    def _boxes(self, annotations: list[dict], record: dict) -> np.ndarray:
        boxes = [annotation["bbox"] for annotation in self._usable(annotations, record)]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)

    def _transform_annotations(
        self, dataset_dict: dict, transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Replace "annotations" of the record by "instances"."""
        size = dataset_dict["height"], dataset_dict["width"]
        _check_finite(dataset_dict["annotations"], dataset_dict["file_name"])
        # Floats, since NumPy would cut the fractions off when whole-numbered boxes are scaled.
        usable = [
            {**a, "bbox": [float(v) for v in a["bbox"]]}
            for a in dataset_dict["annotations"]
            if self._is_usable(a, *size)
        ]
        as_bitmaps = (
            self.use_instance_mask
            and self.instance_mask_format == "bitmask"
            and self.backend == "opencv"
        )
        if self.use_instance_mask:
            check_segmentations(
                ((annotation, f"box {annotation['bbox']}") for annotation in usable),
                f"image {dataset_dict['file_name']}",
            )
        if not as_bitmaps:
            for annotation in usable if self.use_instance_mask else ():
                try:
                    check_segmentation(annotation["segmentation"], *size)
                except ValueError as error:
                    raise ValueError(f"Image {dataset_dict['file_name']}: {error}") from error
            # Detectron2's implementation writes into the annotations.
            dataset_dict["annotations"] = copy.deepcopy(usable)
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            return

        del dataset_dict["annotations"]
        dropped = ("segmentation",) if self.use_keypoint else ("segmentation", "keypoints")
        boxes = [
            detection_utils.transform_instance_annotations(
                {k: v for k, v in annotation.items() if k not in dropped},
                transforms,
                image_shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            for annotation in usable
        ]
        instances = detection_utils.annotations_to_instances(boxes, image_shape)
        masks = np.empty((len(usable), *image_shape), dtype=bool)
        for i, annotation in enumerate(usable):
            try:
                bitmap = rasterize(annotation["segmentation"], *size)
            except ValueError as error:
                raise ValueError(f"Image {dataset_dict['file_name']}: {error}") from error
            # Padding is the semantic maps' label to ignore.
            masks[i] = transforms.apply_segmentation(bitmap) == 1
        instances.gt_masks = BitMasks(torch.from_numpy(masks))
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        # As in MMDetection, an object with an empty bitmap is kept: its box is at least a pixel.
        dataset_dict["instances"] = detection_utils.filter_empty_instances(instances, by_mask=False)

    def _is_usable(self, annotation: dict, height: int, width: int) -> bool:
        if annotation.get("iscrowd", 0):
            return False
        if self.min_box_size <= 0:
            return True
        x1, y1, x2, y2 = BoxMode.convert(
            list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
        )
        if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
            w, h = annotation["bbox"][2:]  # as written: no rounding of (x + w) - x
        else:
            w, h = x2 - x1, y2 - y1
        overlaps = min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)
        return overlaps and w >= self.min_box_size and h >= self.min_box_size

    def _read_sem_seg(self, path: str, record: dict) -> np.ndarray:
        try:
            labels = read_label_map(path, self.max_pixels)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"Semantic map {path} of image {record['file_name']} does not exist. Give the maps "
                "of all images of the dataset, or train without the semantic branch "
                "(MODEL.HTC.SEMANTIC_ON False)"
            ) from error
        if labels.shape != (record["height"], record["width"]):
            raise ImageReadError(
                f"Semantic map {path} is {labels.shape[1]} x {labels.shape[0]} pixels (width x "
                f"height), its image {record['file_name']} is {record['width']} x "
                f"{record['height']}: they must have the same size"
            )
        counts = np.bincount(labels.ravel(), minlength=256)
        if self.sem_seg_ignore < len(counts):
            counts[self.sem_seg_ignore] = 0
        unknown = np.flatnonzero(counts[self.sem_seg_classes :]) + self.sem_seg_classes
        if len(unknown):
            raise ImageReadError(
                f"Semantic map {path} has the labels {unknown.tolist()}, the model knows 0 to "
                f"{self.sem_seg_classes - 1} and {self.sem_seg_ignore} (ignored). Set "
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES to more than the greatest label of the maps"
            )
        return labels


def _check_finite(annotations: list[dict], file_name: str) -> None:
    for annotation in annotations:
        if not all(map(math.isfinite, annotation["bbox"])):
            raise ValueError(
                f"Image {file_name} has a box of numbers that are not finite: {annotation['bbox']}"
            )


class InferenceInput:
    """Converts an image in memory to the network's input, as the test loader does.

    ``InferenceInput(cfg)(image)`` equals what ``HRNetDatasetMapper(cfg, False)`` returns for the
    file of that image.
    """

    @configurable
    def __init__(self, *, resize: T.Augmentation, image_format: str):
        """
        Args:
            resize: the resize augmentation of the test loader.
            image_format: channel order of the network's input, "BGR" or "RGB".

        Raises:
            ValueError: if the format is another one.
        """
        if image_format not in ("BGR", "RGB"):
            raise ValueError(
                f'Images in memory are BGR and can be given as "BGR" or "RGB", not as '
                f"INPUT.FORMAT {image_format!r}"
            )
        self.resize = resize
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        (resize,) = build_augmentation(cfg, is_train=False)
        return {"resize": resize, "image_format": cfg.INPUT.FORMAT}

    def __call__(self, image: np.ndarray) -> dict:
        """
        Args:
            image: (H, W, 3) uint8, BGR, as returned by ``cv2.imread``.

        Returns:
            "image", (3, H', W') uint8 at the network's size, and "height" and "width", H and W.

        Raises:
            TypeError: if it is not a NumPy array of uint8.
            ValueError: if it does not have three channels, or is empty.
        """
        check_image(image)
        height, width = image.shape[:2]
        if self.image_format == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        image = self.resize.get_transform(image).apply_image(image)
        return {"image": _to_tensor(image), "height": height, "width": width}

    def padded_size(self, size: tuple[int, int], divisor: int) -> tuple[int, int]:
        """Height and width that an image of ``size`` (height, width) has in the network: resized
        and padded to multiples of ``divisor``, as Detectron2's ``ImageList`` pads a single image.
        """
        no_pixels = np.broadcast_to(np.uint8(0), (*size, 3))
        transform = self.resize.get_transform(no_pixels)
        height = getattr(transform, "new_h", size[0])
        width = getattr(transform, "new_w", size[1])
        divisor = max(divisor, 1)
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def check_image(image: np.ndarray) -> None:
    """Check that ``image`` is a non-empty (H, W, 3) uint8 array.

    Raises:
        TypeError: if it is not a NumPy array of uint8.
        ValueError: if it does not have three channels, or is empty.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"An image must be a NumPy array (height, width, 3), got {type(image).__name__}. "
            "Read files with cv2.imread, which returns None for those that it cannot read"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"An image must have the shape (height, width, 3), with channels in BGR order; got "
            f"{image.shape}. Convert gray images with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), "
            "images with alpha with cv2.COLOR_BGRA2BGR"
        )
    if image.size == 0:
        raise ValueError(f"The image is empty: its shape is {image.shape}")
    if image.dtype != np.uint8:
        raise TypeError(
            f"An image must be of type uint8 with values 0 to 255, got {image.dtype}. Scale it and "
            "convert it with astype(np.uint8)"
        )


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, C) to a contiguous (C, H, W)."""
    # A copy, also of images of one pixel: NumPy takes these for contiguous whatever their strides
    # are, and torch does not take negative ones.
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def _keep_to_one_thread_in_workers() -> None:
    """One OpenCV thread per worker: loaders use a process per core, more threads only compete."""
    if torch.utils.data.get_worker_info() is not None and cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)
