"""Ids of images and classes as an annotation file has them, so that COCO's results refer to it."""

import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

from hrnet_d2.config_file import ConfigError
from hrnet_d2.data.datasets.coco_check import parse
from hrnet_d2.data.datasets.report import Report

from .result import Prediction

__all__ = ["ids_of"]


def ids_of(path: str, class_names: Sequence[str]) -> tuple[Callable[[Prediction], int], list[int]]:
    """
    Args:
        path: of a COCO annotation file.
        class_names: of the model.

    Returns:
        A function from a prediction to the id of its image, by the end of its path, and the
        category ids of the classes, by their names.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no annotation file.
        ConfigError: if it lacks a class of the model; called, the function raises it if the
            file lacks an image.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no annotation file {path}")
    dataset = parse(path, Report(path))
    categories = {c["name"]: c["id"] for c in dataset["categories"]}
    if missing := [name for name in class_names if name not in categories]:
        raise ConfigError(
            f"--annotations {path} has no category {missing[0]!r}, which is a class of the model "
            f"({len(missing)} of {len(class_names)} are missing): give the file of the model's data"
        )
    by_name: dict[str, list[tuple[str, int]]] = {}
    for image in dataset["images"]:
        name = str(image["file_name"]).replace("\\", "/")
        by_name.setdefault(posixpath.basename(name), []).append((name, image["id"]))

    def image_id(prediction: Prediction) -> int:
        source = prediction.source.replace("\\", "/")
        same = by_name.get(posixpath.basename(source), [])
        exact = [i for name, i in same if source == name or source.endswith(f"/{name}")]
        if len(exact) != 1 and len(same) != 1:
            what = "several images" if exact or same else "no image"
            raise ConfigError(f"--annotations {path} has {what} of the name {prediction.source}")
        return exact[0] if len(exact) == 1 else same[0][1]

    return image_id, [categories[name] for name in class_names]
