"""Custom data of any known format: check and register them, and set the config, in one call."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from hrnet_d2.data.build import set_num_classes
from hrnet_d2.data.cache import cached_json
from hrnet_d2.data.dataset_mapper import uses_semantic_maps
from hrnet_d2.data.masks import check_segmentations

from .coco_check import (
    CocoFile,
    DatasetError,
    check_same_categories,
    nothing_to_learn,
    read_coco,
)
from .formats import Given, resolve_data

__all__ = [
    "check_training_needs",
    "check_validation_needs",
    "configure_custom_data",
    "register_custom_data",
    "register_file",
    "source_of",
]

logger = logging.getLogger(__name__)

Source = tuple[str | Path, str | Path]


def configure_custom_data(
    cfg: CfgNode,
    train: Given | None = None,
    val: Given | None = None,
    train_sem_seg: str | Path | None = None,
    *,
    val_fraction: float = 0.0,
) -> None:
    """Register your own data and set ``cfg`` for them, in place (also if it is frozen).

    Sets DATASETS.TRAIN and DATASETS.TEST (empty if no data are given), the number of classes of
    every family of models and their names (DATASETS.CLASS_NAMES), and DATASETS.OWN, from which
    :func:`register_from_config` registers the same data again. Every process of a job must call
    one of the two.

    Args:
        cfg: the config of the model to train or evaluate.
        train: data to train on: annotation file (COCO JSON) and folder of images, or a path whose
            content :func:`hrnet_d2.data.find_data` recognizes. Their validation split, if any, is
            used unless ``val`` is given.
        val: the same, to evaluate on.
        train_sem_seg: folder of semantic maps of the training images.
        val_fraction: this part of the training images, chosen by ``SEED`` (0 if it is negative),
            is taken out for validation.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        DatasetError: if the data are invalid, or lack something that this model needs.
    """
    train, val = resolve_data(train, val, val_fraction=val_fraction, seed=max(int(cfg.SEED), 0))
    names, files = _register(
        train,
        val,
        train_sem_seg,
        masks=cfg.MODEL.MASK_ON,
        allow_outside_files=cfg.DATASETS.ALLOW_OUTSIDE_FILES,
    )
    if train is not None:
        check_training_needs(cfg, files[0], train_sem_seg)
    if val is not None:
        check_validation_needs(cfg, files[-1])
    own = [
        {
            "NAME": name,
            "JSON": os.path.abspath(file.path),
            "IMAGES": os.path.abspath(file.image_root),
        }
        for name, file in zip(names, files, strict=True)
    ]
    if train_sem_seg is not None:
        own[0]["SEM_SEG"] = os.path.abspath(train_sem_seg)
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (names[0],) if train is not None else ()
    cfg.DATASETS.TEST = (names[-1],) if val is not None else ()
    # One entry for a name: training and evaluation may be on the same data.
    cfg.DATASETS.OWN = list({entry["NAME"]: entry for entry in reversed(own)}.values())[::-1]
    cfg.DATASETS.CLASS_NAMES = list(files[0].class_names)
    set_num_classes(cfg, len(files[0].categories))
    if frozen:
        cfg.freeze()


def register_custom_data(
    train_json: str | Path | None = None,
    train_images: str | Path | None = None,
    val_json: str | Path | None = None,
    val_images: str | Path | None = None,
    train_sem_seg: str | Path | None = None,
    *,
    masks: bool = False,
    allow_outside_files: bool = False,
) -> tuple[str | None, str | None]:
    """Check COCO annotation files and register them as datasets.

    The names are derived from the paths: the same data get the same name in every process. Data
    may be registered again after their file changed.

    Args:
        train_json, train_images: annotation file and folder of the training images.
        val_json, val_images: the same for the validation images.
        train_sem_seg: folder of semantic maps of the training images: NAME.png for NAME.jpg, in
            the same subfolder, if any. Images may lack one.
        masks: malformed segmentations are errors, for models that predict masks. Otherwise they
            are removed, and logged.
        allow_outside_files: accept file names of images that lead out of their folder, by "..", as
            absolute paths or through links.

    Returns:
        The names of the training and the validation dataset; None for one that is not given.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        DatasetError: if a file is invalid (with all problems), the categories of both files differ,
            or a folder has no maps for these images.
    """
    train = _source(train_json, train_images, "train")
    val = _source(val_json, val_images, "val")
    names, _ = _register(
        train, val, train_sem_seg, masks=masks, allow_outside_files=allow_outside_files
    )
    return (names[0] if train else None, names[-1] if val else None)


def _source(json_file: str | Path | None, images: str | Path | None, what: str) -> Source | None:
    if json_file is None:
        return None
    if images is None:
        raise DatasetError(f"{what}_json is {json_file}, and {what}_images is not given")
    return json_file, images


def _register(
    train: Source | None,
    val: Source | None,
    train_sem_seg: str | Path | None,
    *,
    masks: bool,
    allow_outside_files: bool,
) -> tuple[list[str], list[CocoFile]]:
    """Names and files of the given data, training data first."""
    if train is None and val is None:
        raise DatasetError("Neither training nor validation data are given")
    if train_sem_seg is not None and train is None:
        raise DatasetError(
            f"Semantic maps ({train_sem_seg}) go with training data, and none are given"
        )
    files = [
        read_coco(*source, masks=masks, allow_outside_files=allow_outside_files)
        for source in (train, val)
        if source is not None
    ]
    if len(files) == 2:
        check_same_categories(*files)
    names = []
    for file in files:
        maps = Path(train_sem_seg) if train_sem_seg and file is files[0] else None
        source = source_of(
            file.path, file.image_root, maps, masks=masks, allow_outside_files=allow_outside_files
        )
        names.append(register_file(file, maps, None, source))
    return names, files


def register_file(
    file: CocoFile, sem_seg_root: Path | None, name: str | None, source: tuple[Any, ...]
) -> str:
    """Register a file that was read; data of this name are replaced.

    Args:
        file: the annotations, and the folder of images.
        sem_seg_root: folder of their semantic maps.
        name: of the dataset; None is one that is derived from the paths.
        source: of :func:`source_of`, for the metadata.

    Returns:
        The name.

    Raises:
        FileNotFoundError: if there is no such folder of maps.
        DatasetError: if it has no map for these images.
    """
    if sem_seg_root is not None:
        _check_maps(file, sem_seg_root)
    given = [file.path, file.image_root, *([sem_seg_root] if sem_seg_root else [])]
    paths = [os.path.abspath(p) for p in given]
    if name is None:
        digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:8]
        name = f"custom_{file.path.stem}_{digest}"
    if name in DatasetCatalog.list():
        # The file may have changed since then.
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    json_file = str(_complete(file))
    root, maps = paths[1], paths[2] if sem_seg_root else None
    left_out = {annotation["id"] for annotation in file.without_pixels}
    DatasetCatalog.register(name, lambda: _load(json_file, root, maps, name, left_out))
    metadata = MetadataCatalog.get(name)
    metadata.set(
        json_file=json_file,
        image_root=root,
        evaluator_type="coco",
        custom_data=True,
        thing_classes=file.class_names,
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(file.category_ids)},
        source=source,
    )
    if maps is not None:
        metadata.set(sem_seg_root=maps)
    return name


def source_of(
    json_file: str | Path,
    images: str | Path,
    sem_seg: str | Path | None,
    *,
    masks: bool,
    allow_outside_files: bool,
) -> tuple[Any, ...]:
    """What tells whether data that are registered are these, read in the same way."""
    paths = [os.path.abspath(p) if p else "" for p in (json_file, images, sem_seg)]
    state = os.stat(paths[0])
    return (*paths, state.st_mtime_ns, state.st_size, masks, allow_outside_files)


def _load(
    json_file: str, image_root: str, sem_seg_root: str | None, name: str, left_out: set[int]
) -> list[dict]:
    """Detectron2's records, without the objects whose id is in ``left_out``."""
    records = load_coco_json(json_file, image_root, name, ["id"] if left_out else None)
    for record in records if left_out else ():
        kept = [a for a in record["annotations"] if a.pop("id") not in left_out]
        record["annotations"] = kept
    if sem_seg_root is not None:
        for record in records:
            file_name = os.path.relpath(record["file_name"], image_root)
            path = _map_path(sem_seg_root, file_name)
            if os.path.isfile(path):
                record["sem_seg_file_name"] = path
    return records


def _map_path(sem_seg_root: str | Path, file_name: str) -> str:
    return os.path.join(sem_seg_root, os.path.splitext(file_name)[0] + ".png")


def _check_maps(file: CocoFile, sem_seg_root: Path) -> None:
    if not sem_seg_root.is_dir():
        raise FileNotFoundError(f"There is no folder of semantic maps {sem_seg_root}")
    images = file.data["images"]
    missing = [
        p for i in images if not os.path.isfile(p := _map_path(sem_seg_root, i["file_name"]))
    ]
    if len(missing) == len(images):
        raise DatasetError(
            f"The folder of semantic maps {sem_seg_root} has none for the images of {file.path}: "
            f"the first would be {missing[0]}"
        )
    if missing:
        logger.warning(
            "%d of %d images of %s have no semantic map, the first would be %s",
            len(missing),
            len(images),
            file.path,
            missing[0],
        )


def check_training_needs(cfg: CfgNode, train: CocoFile, train_sem_seg: str | Path | None) -> None:
    """What this model needs of training data, before anything is built."""
    lacking = nothing_to_learn(train)
    if lacking and (cfg.INPUT.MIN_BOX_SIZE > 0 or not train.data["annotations"]):
        raise DatasetError(f"{train.path} {lacking}")
    if cfg.MODEL.MASK_ON:
        _check_segmentations(train, crowds=False)
        if len(train.without_pixels) == len(train.data["annotations"]) - train.counts["crowds"]:
            raise DatasetError(
                f"{train.path} has no mask to learn from: the segmentations of all "
                f"{len(train.without_pixels)} objects cover no pixel. Train a box model, or "
                "correct them"
            )
    if uses_semantic_maps(cfg) and train_sem_seg is None:
        raise DatasetError(
            "HTC's semantic branch learns from semantic maps. Give them (--train-sem-seg FOLDER), "
            "or train without the branch (MODEL.HTC.SEMANTIC_ON False)"
        )


def check_validation_needs(cfg: CfgNode, val: CocoFile) -> None:
    annotations = val.data["annotations"]
    if len(annotations) == val.counts["crowds"]:
        logger.warning(
            "%s has no objects to evaluate on (%d annotations, all of them crowds): every AP will "
            "be undefined (nan)",
            val.path,
            len(annotations),
        )
    if cfg.MODEL.MASK_ON:
        _check_segmentations(val, crowds=True)  # COCO's evaluation reads crowds


def _check_segmentations(file: CocoFile, crowds: bool) -> None:
    annotations = ((a, f"annotation id {a['id']}") for a in file.data["annotations"])
    try:
        check_segmentations(annotations, str(file.path), crowds=crowds)
    except ValueError as error:
        raise DatasetError(str(error)) from None


def _complete(file: CocoFile) -> Path:
    """The annotation file, or a repaired copy of it in the cache that all tools can read."""
    if not file.repairs:
        return Path(os.path.abspath(file.path))
    target = cached_json(file.data, file.path.stem)
    logger.info(
        "%s: using the completed copy %s. Completed or corrected: %s",
        file.path,
        target,
        "; ".join(file.repairs),
    )
    return target
