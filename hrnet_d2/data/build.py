"""Data loaders for training and test, and the checks before training."""

import difflib
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from torch.utils.data import DataLoader

from hrnet_d2.config_file import ConfigError

from .dataset_mapper import HRNetDatasetMapper, uses_semantic_maps
from .datasets.coco_check import DatasetError, explain_unreadable
from .masks import check_segmentations
from .resumable import build_resumable_loader

__all__ = [
    "build_test_loader",
    "build_train_loader",
    "check_datasets",
    "check_num_classes",
    "num_classes",
    "set_num_classes",
]

logger = logging.getLogger(__name__)

# The node of MODEL with the number of classes, for each meta-architecture.
CLASS_KEYS = {
    "GeneralizedRCNN": "ROI_HEADS",
    "HybridTaskCascade": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
    "FCOS": "FCOS",
    "RetinaNet": "RETINANET",
}


def build_train_loader(cfg: CfgNode, mapper: Callable | None = None) -> Iterable[list[dict]]:
    """Detectron2's training loader over ``cfg.DATASETS.TRAIN``, with this package's mapper.

    Args:
        cfg: the config. The keys that Detectron2's loader reads (sampler, grouping, workers,
            filtering of images without objects) keep their meaning.
        mapper: replaces ``HRNetDatasetMapper(cfg, True)``.

    Raises:
        FileNotFoundError: if a file or folder of a dataset is missing.
        ValueError: if a dataset is unknown, invalid or empty, has another number of classes than
            the model, or lacks the segmentations or semantic maps that the model learns.
    """
    names = list(cfg.DATASETS.TRAIN)
    if not names:
        check_datasets(cfg, training=True)
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    dataset = _records(
        names,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    check_num_classes(cfg, names)
    if isinstance(dataset, list):
        if cfg.MODEL.MASK_ON:
            check_segmentations(
                (
                    (annotation, f"in image {record['file_name']}")
                    for record in dataset
                    for annotation in record.get("annotations", ())
                ),
                _sources(names),
            )
        if uses_semantic_maps(cfg):
            _check_semantic_maps(dataset, names)
    if mapper is None:
        mapper = HRNetDatasetMapper(cfg, True)
    if isinstance(mapper, HRNetDatasetMapper) and mapper.mixing is not None:
        mapper.mix_with(DatasetFromList(dataset, copy=False))  # serialized: workers share it
    if isinstance(dataset, list):
        return build_resumable_loader(cfg, dataset, mapper)
    return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)


def build_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Callable | None = None, batch_size: int = 1
) -> DataLoader:
    """Detectron2's test loader of one dataset, with this package's mapper.

    Args:
        cfg: the config.
        dataset_name: a registered dataset.
        mapper: replaces ``HRNetDatasetMapper(cfg, False)``.
        batch_size: number of images per batch in each process.

    Raises:
        FileNotFoundError: if a file or folder of the dataset is missing.
        ValueError: if the dataset is unknown, invalid or empty.
    """
    dataset = _records(
        [dataset_name],
        filter_empty=False,
        proposal_files=[
            cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(dataset_name)]
        ]
        if cfg.MODEL.LOAD_PROPOSALS
        else None,
    )
    return build_detection_test_loader(
        dataset,
        mapper=HRNetDatasetMapper(cfg, False) if mapper is None else mapper,
        batch_size=batch_size,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def num_classes(cfg: CfgNode) -> tuple[str, int] | None:
    """The config key of the model's number of classes, and its value.

    None for a meta-architecture without classes, or one that this package does not know.
    """
    node = CLASS_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    if node is None:
        return None
    return f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node].NUM_CLASSES


def set_num_classes(cfg: CfgNode, number: int) -> None:
    """Set the number of classes for every family of models, in place (also if ``cfg`` is frozen).

    Raises:
        ValueError: if the number is less than one.
    """
    if number < 1:
        raise ValueError(f"A detector needs at least one class, got {number}")
    frozen = cfg.is_frozen()
    cfg.defrost()
    for node in sorted(set(CLASS_KEYS.values())):
        if node in cfg.MODEL:
            cfg.MODEL[node].NUM_CLASSES = number
    if frozen:
        cfg.freeze()


def check_num_classes(cfg: CfgNode, dataset_names: Iterable[str] | None = None) -> None:
    """Check that the model and its datasets have the same number of classes.

    Args:
        cfg: the config.
        dataset_names: the datasets to check; DATASETS.TRAIN and DATASETS.TEST if None.

    Raises:
        ConfigError: if the numbers differ; the message has both, the dataset's class names and the
            key to set.
    """
    model = num_classes(cfg)
    if model is None:
        return
    if dataset_names is None:
        dataset_names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    key, number = model
    for name in dataset_names:
        classes = _thing_classes(name)
        if classes is not None and len(classes) != number:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise ConfigError(
                f"The model has {number} classes ({key}), the dataset {name!r} has {len(classes)}: "
                f"{shown}. Set {key} to {len(classes)}, or use the dataset that the model "
                "was trained on (--train-data and --val-data set the number themselves)"
            )


def _thing_classes(name: str) -> list[str] | None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None and name in DatasetCatalog.list():
        DatasetCatalog.get(name)  # sets the metadata from the categories of a COCO file
        classes = MetadataCatalog.get(name).get("thing_classes")
    return classes


def _records(names: list[str], **kwargs: Any) -> Any:
    """The datasets' records; what Detectron2 or pycocotools raise becomes an error that names the
    file and what is wrong with it."""
    _check_registered(names)
    for name in names:
        _check_files_exist(name)
    try:
        return get_detection_dataset_dicts(names, **kwargs)
    except (AssertionError, AttributeError, LookupError, OverflowError, TypeError, ValueError) as e:
        if isinstance(e, DatasetError):
            raise
        text = str(e).rstrip(".!")
        if not isinstance(e, AssertionError) or "No valid data" not in text and "empty" not in text:
            for name in names:
                json_file = MetadataCatalog.get(name).get("json_file")
                if json_file is not None:
                    explain_unreadable(str(json_file), e)
        if text.startswith("No valid data found"):
            text += ": no image has an object that is not a crowd"
        raise DatasetError(f"{text} ({_sources(names)})") from e


def check_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Check the names of the datasets and that their files exist, before anything is built.

    Args:
        cfg: the config.
        training: check DATASETS.TRAIN, which must name a dataset, and DATASETS.TEST, which may be
            empty; otherwise DATASETS.TEST alone, which must name one.

    Raises:
        ConfigError: if a name is missing, or is not registered; the message has similar names.
        FileNotFoundError: if a file or folder is missing; the message has the environment
            variable that moves the built-in datasets.
    """
    train, test = list(cfg.DATASETS.TRAIN), list(cfg.DATASETS.TEST)
    if training and not train:
        raise ConfigError(
            "DATASETS.TRAIN names no dataset: give training data (--train-data FOLDER, or "
            "ANNOTATIONS.json IMAGES/) or the name of a registered dataset"
        )
    if not training and not test:
        raise ConfigError(
            "DATASETS.TEST names no dataset: give data to evaluate on (--val-data "
            "ANNOTATIONS.json IMAGES/) or the name of a registered dataset"
        )
    if training:
        _check_registered(train, "DATASETS.TRAIN")
    _check_registered(test, "DATASETS.TEST")
    for name in (*train, *test) if training else test:
        _check_files_exist(name)


def _check_registered(names: Iterable[str], key: str = "") -> None:
    registered = DatasetCatalog.list()
    for name in names:
        if name in registered:
            continue
        similar = difflib.get_close_matches(name, registered, n=3)
        meant = f"; did you mean {' or '.join(map(repr, similar))}?" if similar else "."
        raise ConfigError(
            f"{key + ': d' if key else 'D'}ataset {name!r} is not registered{meant} Give custom "
            "data by path (--train-data, --val-data), or register them first "
            "(hrnet_d2.data.register_custom_data)"
        )


def _check_files_exist(name: str) -> None:
    """Local files of a dataset in COCO's format; others are left to their loaders."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("drawn_on_demand"):
        return
    for key, what in (("json_file", "annotation file"), ("image_root", "folder of images")):
        path = metadata.get(key)
        if not isinstance(path, str) or not path or "://" in path or os.path.exists(path):
            continue
        if key == "json_file" and metadata.get("image_root") is None:
            continue  # Detectron2 writes it for datasets of another format
        root = os.environ.get("DETECTRON2_DATASETS")
        advice = (
            f"DETECTRON2_DATASETS is {root}"
            if root
            else "the environment variable DETECTRON2_DATASETS is not set, so that the folder "
            "datasets/ of the current directory is used"
        )
        raise FileNotFoundError(
            f"Dataset {name!r}: there is no {what} {path}. Built-in datasets are looked for in "
            f"$DETECTRON2_DATASETS, and {advice}. Set it to the folder that holds coco/, or give "
            "custom data by path (--train-data, --val-data)"
        )


def _sources(names: list[str]) -> str:
    """Where datasets come from, for messages."""
    sources = []
    for name in names:
        metadata = MetadataCatalog.get(name)
        file = metadata.get("json_file", "no annotation file known")
        sources.append(f"{name!r} ({file})")
    return "dataset " + ", ".join(sources)


def _check_semantic_maps(records: list[dict], names: list[str]) -> None:
    without = [r["file_name"] for r in records if "sem_seg_file_name" not in r]
    if len(without) == len(records):
        folders = [MetadataCatalog.get(n).get("sem_seg_root") for n in names]
        looked = ", ".join(f for f in folders if f)
        raise ValueError(
            "HTC's semantic branch learns from semantic maps (PNG), and no image of "
            f"{_sources(names)} has one"
            + (f"; looked in {looked}" if looked else "")
            + ". Give the maps "
            "(--train-sem-seg FOLDER for custom data; COCO's stuffthingmaps with the datasets "
            "coco_2017_*_stuffthing), or train without the branch: MODEL.HTC.SEMANTIC_ON False"
        )
    if without:
        logger.warning(
            "%d of %d images have no semantic map and are left out of its loss, the first is %s",
            len(without),
            len(records),
            without[0],
        )
