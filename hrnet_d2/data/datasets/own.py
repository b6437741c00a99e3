"""Register the data that a config names by path, so that the config of a run is enough."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from hrnet_d2.config_file import ConfigError

from .coco_check import CocoFile, DatasetError, check_same_categories, read_coco
from .custom import check_training_needs, check_validation_needs, register_file, source_of

__all__ = ["register_from_config"]

KEY = "DATASETS.OWN"
NEEDED, OPTIONAL = ("NAME", "JSON", "IMAGES"), ("SEM_SEG",)


def register_from_config(cfg: CfgNode, names: Iterable[str] | None = None) -> list[str]:
    """Register the custom data of ``DATASETS.OWN``; calling it again is harmless.

    ``config.yaml`` of a run on custom data holds this key. An entry is a mapping: NAME is the
    dataset's name in DATASETS.TRAIN and DATASETS.TEST, JSON the annotation file, IMAGES the folder
    of images and, for HTC's training data, SEM_SEG the folder of semantic maps. Relative paths
    start from the current directory. The files are checked as
    :func:`hrnet_d2.data.register_custom_data` checks them, and DATASETS.ALLOW_OUTSIDE_FILES
    applies. Data that are registered already are not read again unless their file has changed.

    Args:
        cfg: a config; it stays as it is.
        names: register only these datasets. Default: every entry.

    Returns:
        The names of the entries, of those that were registered now or before.

    Raises:
        ConfigError: if an entry is no such mapping, or its name belongs to another dataset.
        FileNotFoundError: if a file or folder is missing; the message names the key.
        DatasetError: if the data are invalid, lack something that this model needs, or have other
            classes than DATASETS.CLASS_NAMES.
    """
    wanted = None if names is None else set(names)
    registered, files = [], {}
    for number, entry in enumerate(cfg.DATASETS.get("OWN", ())):
        key = f"{KEY}[{number}]"
        _check_entry(key, entry)
        name = entry["NAME"]
        if wanted is not None and name not in wanted:
            continue
        registered.append(name)
        source = _source(key, entry, cfg)
        known = MetadataCatalog.get(name).get("source") if name in DatasetCatalog.list() else None
        if known == source:
            continue
        if known is None and name in DatasetCatalog.list():
            raise ConfigError(
                f"{key}.NAME is {name!r}, which is another dataset already: choose another name, "
                "also in DATASETS.TRAIN and DATASETS.TEST"
            )
        files[name] = _read(key, entry, cfg)
        register_file(files[name], _maps(entry), name, source)
    for one, other in zip(list(files.values()), list(files.values())[1:], strict=False):
        check_same_categories(one, other)
    return registered


def _check_entry(key: str, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{key} is {entry!r}, it must be a mapping with {', '.join(NEEDED)}")
    unknown = [name for name in entry if name not in NEEDED + OPTIONAL]
    missing = [name for name in NEEDED if name not in entry]
    if unknown or missing:
        raise ConfigError(
            f"{key} has the keys {', '.join(map(str, entry))}: it must have {', '.join(NEEDED)}, "
            f"and may have {', '.join(OPTIONAL)}"
        )
    for name, value in entry.items():
        if not isinstance(value, str) or not (value or name in OPTIONAL):
            raise ConfigError(f"{key}.{name} is {value!r}, it must be a text")


def _source(key: str, entry: Mapping[str, str], cfg: CfgNode) -> tuple[Any, ...]:
    for name, what, exists in (
        ("JSON", "annotation file", os.path.isfile),
        ("IMAGES", "folder of images", os.path.isdir),
        ("SEM_SEG", "folder of semantic maps", os.path.isdir),
    ):
        path = entry.get(name)
        if path and not exists(path):
            raise FileNotFoundError(
                f"{key}.{name} (dataset {entry['NAME']!r}): there is no {what} {path}. If it has "
                "moved, set the key in the config file, or give the data by path (--train-data, "
                "--val-data)"
            )
    return source_of(
        entry["JSON"],
        entry["IMAGES"],
        entry.get("SEM_SEG"),
        masks=cfg.MODEL.MASK_ON,
        allow_outside_files=cfg.DATASETS.ALLOW_OUTSIDE_FILES,
    )


def _read(key: str, entry: Mapping[str, str], cfg: CfgNode) -> CocoFile:
    file = read_coco(
        entry["JSON"],
        entry["IMAGES"],
        masks=cfg.MODEL.MASK_ON,
        allow_outside_files=cfg.DATASETS.ALLOW_OUTSIDE_FILES,
    )
    names = list(cfg.DATASETS.CLASS_NAMES)
    if names and names != file.class_names:
        raise DatasetError(
            f"{key}.JSON {file.path} has the classes {', '.join(file.class_names)}, and "
            f"DATASETS.CLASS_NAMES has {', '.join(names)}: the model knows the latter. Restore the "
            "file, or give the data by path (--train-data, --val-data)"
        )
    if entry["NAME"] in cfg.DATASETS.TRAIN:
        check_training_needs(cfg, file, _maps(entry))
    if entry["NAME"] in cfg.DATASETS.TEST:
        check_validation_needs(cfg, file)
    return file


def _maps(entry: Mapping[str, str]) -> Path | None:
    return Path(entry["SEM_SEG"]) if entry.get("SEM_SEG") else None
