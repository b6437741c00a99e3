"""Images and annotations: reading, resizing, mappers, loaders and datasets.

Importing this registers ``shapes_train``, ``shapes_val`` (drawn when first used) and
``coco_2017_train_stuffthing``, ``coco_2017_val_stuffthing``.
"""

from .augmentation import build_augmentation
from .build import (
    build_test_loader,
    build_train_loader,
    check_datasets,
    check_num_classes,
    num_classes,
    set_num_classes,
)
from .dataset_mapper import HRNetDatasetMapper, InferenceInput, check_image
from .datasets.coco_check import DatasetError
from .datasets.coco_stuff import register_coco_stuffthing
from .datasets.custom import configure_custom_data, register_custom_data
from .datasets.formats import CustomData, find_data
from .datasets.own import register_from_config
from .datasets.shapes import register_shapes
from .image_io import ImageReadError, SizeMismatchError, read_image
from .mixing import Mixing
from .transforms import OpenCVResizeTransform, ResizeKeepRatio

__all__ = [
    "CustomData",
    "DatasetError",
    "HRNetDatasetMapper",
    "ImageReadError",
    "InferenceInput",
    "Mixing",
    "OpenCVResizeTransform",
    "ResizeKeepRatio",
    "SizeMismatchError",
    "build_augmentation",
    "build_test_loader",
    "build_train_loader",
    "check_image",
    "check_datasets",
    "check_num_classes",
    "configure_custom_data",
    "find_data",
    "num_classes",
    "read_image",
    "register_custom_data",
    "register_from_config",
    "set_num_classes",
]

register_shapes()
register_coco_stuffthing()
