"""Images and annotations: reading, resizing, mappers, loaders, and datasets.

Importing this registers ``shapes_train``, ``shapes_val`` (drawn when first used) and
``coco_2017_train_stuffthing``, ``coco_2017_val_stuffthing``.
"""

from .build import (
    build_test_loader,
    build_train_loader,
    check_num_classes,
    num_classes,
    set_num_classes,
)
from .coco_check import DatasetError
from .coco_stuff import register_coco_stuffthing
from .mapper import HRNetDatasetMapper, InferenceInput, check_image
from .own import configure_own_data, register_own_data
from .reading import ImageReadError, SizeMismatchError, read_image
from .shapes import register_shapes
from .transforms import OpenCVResizeTransform, ResizeKeepRatio, build_augmentation

__all__ = [
    "DatasetError",
    "HRNetDatasetMapper",
    "ImageReadError",
    "InferenceInput",
    "OpenCVResizeTransform",
    "ResizeKeepRatio",
    "SizeMismatchError",
    "build_augmentation",
    "build_test_loader",
    "build_train_loader",
    "check_image",
    "check_num_classes",
    "configure_own_data",
    "num_classes",
    "read_image",
    "register_own_data",
    "set_num_classes",
]

register_shapes()
register_coco_stuffthing()
