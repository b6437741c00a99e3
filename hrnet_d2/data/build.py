"""Loaders for training and test, and the checks that come before training."""

import logging
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from torch.utils.data import DataLoader

from .dataset_mapper import HRNetDatasetMapper, uses_semantic_maps
from .resumable import build_resumable_loader

__all__ = [
    "build_test_loader",
    "build_train_loader",
    "check_num_classes",
    "num_classes",
    "set_num_classes",
]

logger = logging.getLogger(__name__)

# The key of MODEL that holds the number of classes, for each meta-architecture.
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
        cfg: the config. What Detectron2's loader reads (sampler, grouping, workers, filter of
            images without objects) keeps its meaning.
        mapper: instead of ``HRNetDatasetMapper(cfg, True)``.

    Raises:
        ValueError: a dataset is empty, its classes are not the model's, it has no outlines
            although the model learns masks, or no semantic maps although the model learns them.
    """
    names = list(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError(
            "DATASETS.TRAIN names no dataset: give training data (--train-data ANNOTATIONS.json "
            "IMAGES/) or the name of a registered dataset."
        )
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
            _check_outlines(dataset, names)
        if uses_semantic_maps(cfg):
            _check_semantic_maps(dataset, names)
    if mapper is None:
        mapper = HRNetDatasetMapper(cfg, True)
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
        mapper: instead of ``HRNetDatasetMapper(cfg, False)``.
        batch_size: images of a batch in each process.

    Raises:
        ValueError: the dataset is empty.
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
    """The key that holds the model's number of classes, and the number.

    None for a meta-architecture without classes, or one that this package does not know.
    """
    node = CLASS_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    if node is None:
        return None
    return f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node].NUM_CLASSES


def set_num_classes(cfg: CfgNode, number: int) -> None:
    """Set the number of classes for every family of models, in place (also if ``cfg`` is frozen).

    Raises:
        ValueError: less than one class.
    """
    if number < 1:
        raise ValueError(f"A detector needs at least one class, got {number}.")
    frozen = cfg.is_frozen()
    cfg.defrost()
    for node in sorted(set(CLASS_KEYS.values())):
        if node in cfg.MODEL:
            cfg.MODEL[node].NUM_CLASSES = number
    if frozen:
        cfg.freeze()


def check_num_classes(cfg: CfgNode, dataset_names: Iterable[str] | None = None) -> None:
    """Refuse a model whose number of classes is not that of its datasets.

    Args:
        cfg: the config.
        dataset_names: the datasets to hold it against; DATASETS.TRAIN and DATASETS.TEST if None.

    Raises:
        ValueError: both numbers, the dataset's names of classes, and what to set.
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
            raise ValueError(
                f"The model has {number} classes ({key}), the dataset {name!r} has {len(classes)}: "
                f"{shown}. Set {key} to {len(classes)}, or give the dataset that the model is for "
                "(--train-data and --val-data set the number by themselves)."
            )


def _thing_classes(name: str) -> list[str] | None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None and name in DatasetCatalog.list():
        DatasetCatalog.get(name)  # COCO files give their categories when they are read
        classes = MetadataCatalog.get(name).get("thing_classes")
    return classes


def _records(names: list[str], **kwargs):
    """The datasets' records; Detectron2's assertions become errors that name the files."""
    try:
        return get_detection_dataset_dicts(names, **kwargs)
    except AssertionError as error:
        raise ValueError(f"{error} {_sources(names)}") from error


def _sources(names: list[str]) -> str:
    """Where datasets come from, for messages."""
    sources = []
    for name in names:
        metadata = MetadataCatalog.get(name)
        file = metadata.get("json_file", "no annotation file known")
        sources.append(f"{name!r} ({file})")
    return "Dataset: " + ", ".join(sources) + "."


def _check_outlines(records: list[dict], names: list[str]) -> None:
    total = missing = 0
    first = None
    for record in records:
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue
            total += 1
            if "segmentation" not in annotation:
                missing += 1
                first = first or record["file_name"]
    if missing:
        raise ValueError(
            f"This model learns masks (MODEL.MASK_ON), and {missing} of {total} objects have no "
            f"segmentation (the first in image {first}). {_sources(names)} Train a model of boxes "
            "(faster_rcnn, cascade_rcnn or fcos configs), or give every object its outline."
        )


def _check_semantic_maps(records: list[dict], names: list[str]) -> None:
    without = [r["file_name"] for r in records if "sem_seg_file_name" not in r]
    if len(without) == len(records):
        folders = [MetadataCatalog.get(n).get("sem_seg_root") for n in names]
        looked = ", ".join(f for f in folders if f)
        raise ValueError(
            "HTC's semantic branch learns from semantic maps (PNG), and no image has one"
            + (f"; looked in {looked}" if looked else "")
            + f". {_sources(names)} Give the maps (--train-sem-seg FOLDER for own data; COCO's "
            "stuffthingmaps with the datasets coco_2017_*_stuffthing), or train without the "
            "branch: MODEL.HTC.SEMANTIC_ON False."
        )
    if without:
        logger.warning(
            "%d of %d images have no semantic map and do not count in its loss, the first is %s.",
            len(without),
            len(records),
            without[0],
        )
