"""Ground truth and results as flat arrays, from COCO files that are checked first."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from hrnet_d2.data.datasets.coco_check import DatasetError, parse
from hrnet_d2.data.datasets.report import Report, some
from hrnet_d2.data.segmentations import SegmentationError, check_rle, valid_rle_strings
from hrnet_d2.evaluation.ground_truth import check_ground_truth, evaluated_fields

__all__ = ["Detections", "Truth", "read_results", "read_truth"]

MAX_DETECTIONS = 100  # of an image and class, as COCO's evaluation counts them


@dataclass
class Truth:
    """The annotated objects of a dataset, sorted by image; N objects, I images, K classes."""

    source: str
    dataset: dict
    """The annotation file, checked, with the fields that the evaluation reads."""
    image_ids: list[int]
    """Of the I images, ascending."""
    file_names: list[str]
    sizes: np.ndarray
    """(I, 2) int, width and height in pixels."""
    class_ids: list[int]
    """Category ids of the K classes, ascending."""
    class_names: list[str]
    image: np.ndarray
    """(N,) int, index of the image of each object."""
    cls: np.ndarray
    """(N,) int, index of the class."""
    crowd: np.ndarray
    """(N,) bool; crowds count neither as found nor as missed."""
    box: np.ndarray
    """(N, 4) float64, x, y, width, height in pixels."""
    rle: list[dict] | None
    """N compressed run-length encodings; None if an object has no segmentation."""

    def __len__(self) -> int:
        return len(self.image)

    @property
    def objects(self) -> np.ndarray:
        """(K,) number of objects of each class, without crowds."""
        return np.bincount(self.cls[~self.crowd], minlength=len(self.class_ids))


@dataclass
class Detections:
    """The detections of a run, sorted by image and descending score; N detections."""

    source: str
    results: list[dict] = field(repr=False)
    """The file's entries, in its order."""
    image: np.ndarray
    """(N,) int, index of the image."""
    cls: np.ndarray
    """(N,) int, index of the class."""
    score: np.ndarray
    """(N,) float64."""
    box: np.ndarray
    """(N, 4) float64, x, y, width, height in pixels."""
    rle: list[dict] | None
    """N compressed run-length encodings, if the run predicted masks."""
    tasks: tuple[str, ...]
    """"bbox" and "segm", as far as the results have them."""

    def __len__(self) -> int:
        return len(self.image)


def read_truth(path: str | os.PathLike[str]) -> Truth:
    """Read a COCO annotation file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is invalid; the message has all problems.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no annotation file {path}")
    dataset = parse(path, Report(path))
    check_ground_truth(dataset, str(path))
    images = sorted(dataset["images"], key=lambda image: image["id"])
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    index = {image["id"]: i for i, image in enumerate(images)}
    class_index = {category["id"]: i for i, category in enumerate(categories)}
    # Stable: objects of an image keep the order of the file, as in COCO's evaluation.
    annotations = sorted(dataset["annotations"], key=lambda a: index[a["image_id"]])
    segmented = all(a.get("segmentation") for a in annotations)
    return Truth(
        source=str(path),
        dataset=evaluated_fields(dataset),
        image_ids=[image["id"] for image in images],
        file_names=[str(image.get("file_name", image["id"])) for image in images],
        sizes=_array([(image["width"], image["height"]) for image in images], 2, np.int64),
        class_ids=[category["id"] for category in categories],
        class_names=[str(category["name"]) for category in categories],
        image=np.array([index[a["image_id"]] for a in annotations], dtype=np.int64),
        cls=np.array([class_index[a["category_id"]] for a in annotations], dtype=np.int64),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool),
        box=_array([a["bbox"] for a in annotations], 4, np.float64),
        rle=[_encode(a["segmentation"], images[index[a["image_id"]]]) for a in annotations]
        if segmented
        else None,
    )


def read_results(path: str | os.PathLike[str], truth: Truth) -> Detections:
    """Read a COCO results file, such as ``coco_instances_results.json``.

    Args:
        path: a JSON list of {"image_id", "category_id", "score"} with "bbox", "segmentation"
            (run-length encodings) or both.
        truth: the annotations that it belongs to.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is invalid, or of other images or categories.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no results file {path}")
    results = parse(path, Report(path))
    return _from_results(results, str(path), truth)


def _from_results(results: Any, source: str, truth: Truth) -> Detections:
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        hint = " (an annotation file?)" if isinstance(results, dict) else ""
        raise DatasetError(f"{source} is not a list of COCO results{hint}")
    image = _lookup(results, "image_id", truth.image_ids, source)
    cls = _lookup(results, "category_id", truth.class_ids, source)
    score = _numbers([r.get("score") for r in results], 0, source, "score")
    with_masks = _tasks_of(results, "segmentation", source)
    rle = _encodings(results, image, truth, source) if with_masks else None
    if _tasks_of(results, "bbox", source):
        box = _numbers([r.get("bbox") for r in results], 4, source, "bbox")
        if (box[:, 2:] < 0).any():
            raise DatasetError(f"{source}: a bbox has a negative width or height")
        tasks = ("bbox", "segm") if with_masks else ("bbox",)
    elif rle is not None:
        box = np.asarray(mask_util.toBbox(rle), dtype=np.float64).reshape(-1, 4)
        tasks = ("segm",)
    elif results:
        raise DatasetError(f'{source}: results have neither "bbox" nor "segmentation"')
    else:
        box, tasks = np.zeros((0, 4)), ("bbox",)
    if truth.rle is None and "segm" in tasks:
        if tasks == ("segm",):
            raise DatasetError(
                f"{source} has masks only, and objects of {truth.source} have no segmentation"
            )
        tasks, rle = ("bbox",), None
    order = np.lexsort((-score, image))
    order = order[_rank(image[order], cls[order]) < MAX_DETECTIONS]
    return Detections(
        source=source,
        results=results,
        image=image[order],
        cls=cls[order],
        score=score[order],
        box=box[order],
        rle=[rle[i] for i in order] if rle is not None else None,
        tasks=tasks,
    )


def _rank(image: np.ndarray, cls: np.ndarray) -> np.ndarray:
    """The position of each detection among those of its image and class."""
    order = np.lexsort((cls, image))  # stable
    starts = np.flatnonzero(
        np.diff(image[order], prepend=-1).astype(bool)
        | np.diff(cls[order], prepend=-1).astype(bool)
    )
    lengths = np.diff(starts, append=len(order))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return rank


def _array(rows: list, columns: int, dtype: Any) -> np.ndarray:
    return np.array(rows, dtype=dtype).reshape(-1, columns)


def _encode(segmentation: Any, image: dict) -> dict:
    """The compressed run-length encoding of a checked segmentation."""
    height, width = image["height"], image["width"]
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, height, width)
        return segmentation
    return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))


def _lookup(results: list[dict], key: str, known: Sequence[int], source: str) -> np.ndarray:
    index: dict[Any, int] = {value: i for i, value in enumerate(known)}
    try:
        found = [index.get(r.get(key), -1) for r in results]
    except TypeError:  # a list or a dict
        raise DatasetError(f'{source}: a "{key}" is no number') from None
    array = np.array(found, dtype=np.int64)
    unknown = dict.fromkeys(results[i].get(key) for i in np.flatnonzero(array < 0))
    if unknown:
        raise DatasetError(
            f'{source}: {(array < 0).sum()} results have a "{key}" that the annotations do not '
            f"have: {some(unknown)}. Give the annotation file that the results were made for"
        )
    return array


def _numbers(values: list, columns: int, source: str, key: str) -> np.ndarray:
    """(N,) or (N, columns) float64, finite."""
    shape = (len(values), columns) if columns else (len(values),)
    try:
        array = np.array(values).reshape(shape)
    except ValueError:  # rows of other lengths
        array = np.array([np.nan])
    # Of texts NumPy would make numbers.
    array = array.astype(np.float64) if array.dtype.kind in "iuf" else np.array([np.nan])
    if not np.isfinite(array).all():
        what = f"{columns} finite numbers" if columns else "a finite number"
        raise DatasetError(f'{source}: the "{key}" of a result is not {what}')
    return array


def _tasks_of(results: list[dict], key: str, source: str) -> bool:
    """Whether the results have a field: all of them or none."""
    having = sum(bool(r.get(key)) for r in results)
    if 0 < having < len(results):
        raise DatasetError(
            f'{source}: {having} of {len(results)} results have a "{key}". All must have it, or '
            "none"
        )
    return having > 0


def _encodings(
    results: list[dict], image: np.ndarray, truth: Truth, source: str
) -> list[dict[str, Any]]:
    """Checked and compressed: on malformed ones pycocotools reads outside its memory."""
    strings: list[tuple[str, int]] = []
    encodings = []
    for result, i in zip(results, image, strict=True):
        rle, (width, height) = result["segmentation"], truth.sizes[i].tolist()
        try:
            if not isinstance(rle, dict):
                raise SegmentationError("it is not a run-length encoding")
            check_rle(rle, height, width, lambda *string: strings.append(string))
        except SegmentationError as error:
            raise DatasetError(
                f"{source}: the segmentation of a result for image "
                f"{truth.image_ids[i]} cannot be used: {error}"
            ) from None
        encodings.append(_encode(rle, {"height": height, "width": width}))
    if strings and not valid_rle_strings(*zip(*strings, strict=True)).all():
        raise DatasetError(f"{source}: a run-length encoding does not cover its image")
    return encodings
