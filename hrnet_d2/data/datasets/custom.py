"""Own data in COCO format, in one call: registered, checked, and the config set for them."""

import hashlib
import json
import logging
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from hrnet_d2.data.build import set_num_classes
from hrnet_d2.data.cache import cache_folder, write_once
from hrnet_d2.data.dataset_mapper import uses_semantic_maps

from .coco_check import CocoFile, DatasetError, check_same_categories, read_coco

__all__ = ["configure_custom_data", "register_custom_data"]

logger = logging.getLogger(__name__)

Source = tuple[str | Path, str | Path]


def configure_custom_data(
    cfg: CfgNode,
    train: Source | None = None,
    val: Source | None = None,
    train_sem_seg: str | Path | None = None,
) -> None:
    """Register own data and set ``cfg`` for them, in place (also if it is frozen).

    Sets DATASETS.TRAIN and DATASETS.TEST (empty where no data are given) and the number of
    classes of every family of models.  Each process calls this for itself.

    Args:
        cfg: the config of the model to train or evaluate.
        train: annotation file (COCO JSON) and folder of images to train on.
        val: the same to evaluate on.
        train_sem_seg: folder of semantic maps of the training images.

    Raises:
        FileNotFoundError: a file or folder is missing.
        DatasetError: what is wrong with the data, or what this model needs and they lack.
    """
    names, files = _register(train, val, train_sem_seg)
    if train is not None:
        _check_training_needs(cfg, files[0], train_sem_seg)
    if val is not None and cfg.MODEL.MASK_ON:
        _check_outlines(files[-1], crowds=True)  # the evaluation reads all of them
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (names[0],) if train is not None else ()
    cfg.DATASETS.TEST = (names[-1],) if val is not None else ()
    set_num_classes(cfg, len(files[0].categories))
    if frozen:
        cfg.freeze()


def register_custom_data(
    train_json: str | Path | None = None,
    train_images: str | Path | None = None,
    val_json: str | Path | None = None,
    val_images: str | Path | None = None,
    train_sem_seg: str | Path | None = None,
) -> tuple[str | None, str | None]:
    """Check COCO annotation files and register them as datasets.

    The names come from the paths: the same data get the same name in every process, and may be
    registered again.

    Args:
        train_json, train_images: annotation file and folder of the training images.
        val_json, val_images: the same of the validation images.
        train_sem_seg: folder of semantic maps of the training images: NAME.png for NAME.jpg, in
            the same subfolder, if any. Images may lack one.

    Returns:
        The names of the training and of the validation dataset; None for what is not given.

    Raises:
        FileNotFoundError: a file or folder is missing.
        DatasetError: everything that is wrong with a file, categories that disagree, or a folder
            of maps that has none for these images.
    """
    train = None if train_json is None else (train_json, train_images)
    val = None if val_json is None else (val_json, val_images)
    names, _ = _register(train, val, train_sem_seg)
    return (names[0] if train else None, names[-1] if val else None)


def _register(
    train: Source | None, val: Source | None, train_sem_seg: str | Path | None
) -> tuple[list[str], list[CocoFile]]:
    """Names and files of what is given, training data first."""
    if train is None and val is None:
        raise DatasetError("Neither training nor validation data are given.")
    if train_sem_seg is not None and train is None:
        raise DatasetError(
            f"Semantic maps ({train_sem_seg}) go with training data, and none are given."
        )
    files = [read_coco(*source) for source in (train, val) if source is not None]
    if len(files) == 2:
        check_same_categories(*files)
    names = []
    for file in files:
        maps = Path(train_sem_seg) if train_sem_seg and file is files[0] else None
        names.append(_register_file(file, maps))
    return names, files


def _register_file(file: CocoFile, sem_seg_root: Path | None) -> str:
    if sem_seg_root is not None:
        _check_maps(file, sem_seg_root)
    paths = [file.path, file.image_root, *([sem_seg_root] if sem_seg_root else [])]
    paths = [os.path.abspath(p) for p in paths]
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:8]
    name = f"own_{file.path.stem}_{digest}"
    if name in DatasetCatalog.list():
        # The file may have changed since.
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    json_file = str(_complete(file))
    root, maps = paths[1], paths[2] if sem_seg_root else None
    DatasetCatalog.register(name, lambda: _load(json_file, root, maps, name))
    metadata = MetadataCatalog.get(name)
    metadata.set(
        json_file=json_file,
        image_root=root,
        evaluator_type="coco",
        thing_classes=file.class_names,
        thing_dataset_id_to_contiguous_id={c: i for i, (c, _) in enumerate(file.categories)},
    )
    if maps is not None:
        metadata.set(sem_seg_root=maps)
    return name


def _load(json_file: str, image_root: str, sem_seg_root: str | None, name: str) -> list[dict]:
    records = load_coco_json(json_file, image_root, name)
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
        raise FileNotFoundError(f"There is no folder of semantic maps {sem_seg_root}.")
    images = file.data["images"]
    missing = [
        p for i in images if not os.path.isfile(p := _map_path(sem_seg_root, i["file_name"]))
    ]
    if len(missing) == len(images):
        raise DatasetError(
            f"The folder of semantic maps {sem_seg_root} has none for the images of {file.path}: "
            f"the first is looked for as {missing[0]}."
        )
    if missing:
        logger.warning(
            "%d of %d images of %s have no semantic map, the first is looked for as %s.",
            len(missing),
            len(images),
            file.path,
            missing[0],
        )


def _check_training_needs(cfg: CfgNode, train: CocoFile, train_sem_seg: str | Path | None) -> None:
    """What this model needs of training data, before anything is built."""
    if not train.data["annotations"]:
        raise DatasetError(f"{train.path} has no annotations: there is nothing to learn.")
    if cfg.MODEL.MASK_ON:
        _check_outlines(train, crowds=False)
    if uses_semantic_maps(cfg) and train_sem_seg is None:
        raise DatasetError(
            "HTC's semantic branch learns from semantic maps: give them (--train-sem-seg FOLDER), "
            "or train without the branch (MODEL.HTC.SEMANTIC_ON False)."
        )


def _check_outlines(file: CocoFile, crowds: bool) -> None:
    without = file.without_outline(crowds)
    if without:
        raise DatasetError(
            f"This model predicts masks (MODEL.MASK_ON), and {len(without)} of "
            f"{len(file.data['annotations'])} annotations of {file.path} have no segmentation (the "
            f"first has the id {without[0]['id']}). Take a model of boxes (faster_rcnn, "
            "cascade_rcnn or fcos configs), or give every object its outline."
        )


def _complete(file: CocoFile) -> Path:
    """The annotation file, or a copy in the cache with what COCO's evaluation needs and it lacks:
    "area" (the box's where there is none) and "iscrowd" (no) of each annotation, ids that are
    not 0 (which the evaluation takes for "unmatched").
    """
    annotations = file.data["annotations"]
    shift = 1 - min((a["id"] for a in annotations), default=1)
    lacking = any("area" not in a or "iscrowd" not in a for a in annotations)
    if not lacking and all(a["id"] != 0 for a in annotations):
        return Path(os.path.abspath(file.path))
    completed = [
        {
            "iscrowd": 0,
            "area": a["bbox"][2] * a["bbox"][3],
            **a,
            "id": a["id"] + shift,
        }
        for a in annotations
    ]
    text = json.dumps({**file.data, "annotations": completed})
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    target = cache_folder() / "annotations" / f"{file.path.stem}_{digest}.json"
    write_once(target, lambda path: path.write_text(text))
    logger.info(
        "%s lacks what the evaluation needs (area, iscrowd, or ids from 1): using the completed "
        "copy %s.",
        file.path,
        target,
    )
    return target
