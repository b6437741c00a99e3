"""The images that the page shows: which ones, their thumbnails, and what is drawn on them."""

import base64
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from hrnet_d2.data.image_io import read_image

from .analysis import Analysis
from .errors import MISSED
from .inputs import Truth

__all__ = ["LEAST_SCORE", "build_gallery"]

logger = logging.getLogger(__name__)

SIDE = 560  # of thumbnails, the longer one, in pixels
QUALITY = 80  # of their JPEG
# Bytes of the page, which stays below 50 MB whatever it is about: of all thumbnails, as base64,
# and of what is drawn over them.
BUDGET = 22 * 2**20
DRAWINGS = 10 * 2**20
LEAST_SCORE = 0.05  # of detections in the gallery
MOST_DETECTIONS = 60  # of an image and run
MOST_OBJECTS = 200  # of an image
MOST_POINTS = 60  # of an outline


def build_gallery(
    runs: Sequence[dict[str, Analysis]], folder: Path | None, most: int
) -> dict[str, Any]:
    """Choose images, and make their thumbnails and drawings, as many as the page may hold.

    Args:
        runs: one or two runs, by task.
        folder: where the file names of the annotations start from; None for no thumbnails.
        most: number of images.

    Returns:
        "images", what the page's script draws, and "pictures", data URIs of JPEG files.
    """
    analyses = [analysis for run in runs for analysis in run.values()]
    truth = analyses[0].truth
    images: list[dict[str, Any]] = []
    pictures: list[str] = []
    used, drawn, problems = 0, 0, 0
    for i in _choose(runs, most):
        width, height = truth.sizes[i].tolist()
        scale = min(1.0, SIDE / max(width, height))
        entry = {
            "image": i,
            "width": max(1, round(width * scale)),
            "height": max(1, round(height * scale)),
            "picture": -1,
            "objects": _objects(runs, i, scale),
            "runs": [_detections(run, i, scale) for run in runs],
        }
        drawn += len(json.dumps(entry))
        if drawn > DRAWINGS and images:
            break
        if folder is not None and used < BUDGET:
            jpeg = _thumbnail(truth, i, folder, (entry["width"], entry["height"]))
            if jpeg is None:
                problems += 1
            else:
                entry["picture"] = len(pictures)
                pictures.append("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())
                used += len(pictures[-1])
        images.append(entry)
    if problems:
        logger.warning(
            "%d of %d images could not be read from %s: the page shows their boxes on a plain "
            "background",
            *(problems, len(images), folder),
        )
    return {"images": images, "pictures": pictures}


def _choose(runs: Sequence[dict[str, Analysis]], most: int) -> list[int]:
    """Images that the page should show, in turns: the worst, those with the most confident mistakes
    of each kind, with missed objects, and those that differ most between the runs."""
    lists: list[Iterator[int]] = []
    for task, analysis in runs[0].items():
        mistakes = _mistakes(analysis)
        lists.append(iter(np.argsort(-mistakes, kind="stable").tolist()))
        if len(runs) == 2 and task in runs[1]:
            change = np.abs(mistakes - _mistakes(runs[1][task]))
            lists.append(iter(np.argsort(-change, kind="stable").tolist()))
        detections, errors, truth = analysis.detections, analysis.errors, analysis.truth
        for number in range(MISSED):
            wrong = np.flatnonzero((errors.kind == number) & (detections.score >= LEAST_SCORE))
            wrong = wrong[np.argsort(-detections.score[wrong], kind="stable")]
            wrong = _classes_in_turns(wrong, detections.cls)
            lists.append(iter(detections.image[wrong].tolist()))
        missed = np.flatnonzero(analysis.missed)
        missed = missed[np.argsort(-truth.box[missed, 2:].prod(axis=1), kind="stable")]
        lists.append(iter(truth.image[_classes_in_turns(missed, truth.cls)].tolist()))
    chosen: dict[int, None] = {}
    while lists and len(chosen) < most:
        for source in list(lists):
            for image in source:
                if image not in chosen:
                    chosen[image] = None
                    break
            else:
                lists.remove(source)
            if len(chosen) >= most:
                break
    return list(chosen)


def _mistakes(analysis: Analysis) -> np.ndarray:
    counts = analysis.by_image()
    return counts["false"] + counts["lost"]


def _classes_in_turns(items: np.ndarray, cls: np.ndarray) -> np.ndarray:
    """The first item of every class, then the second, and so on; items are sorted before."""
    order = np.argsort(cls[items], kind="stable")
    starts = np.flatnonzero(np.diff(cls[items][order], prepend=-1))
    turn = np.empty(len(items), dtype=np.int64)
    lengths = np.diff(starts, append=len(items))
    turn[order] = np.arange(len(items)) - np.repeat(starts, lengths)
    return items[np.argsort(turn, kind="stable")]


def _objects(runs: Sequence[dict[str, Analysis]], image: int, scale: float) -> list[dict]:
    """The objects of an image, of too many those that were missed first; for each run and task the
    score of the detection that found it, and of the highest mistake that is about it (-1: none)."""
    analysis = next(iter(runs[0].values()))
    truth = analysis.truth
    low, high = np.searchsorted(truth.image, [image, image + 1])
    indices = np.arange(low, high)
    if len(indices) > MOST_OBJECTS:
        missed = analysis.missed[low:high]
        indices = np.sort(indices[np.argsort(~missed, kind="stable")][:MOST_OBJECTS])
    entries = []
    for t in indices.tolist():
        entry: dict[str, Any] = {
            "class": int(truth.cls[t]),
            "box": _box(truth.box[t], scale),
            "runs": [{task: _seen(analysis, t) for task, analysis in run.items()} for run in runs],
        }
        if truth.crowd[t]:
            entry["crowd"] = True
        if truth.rle is not None:
            entry["outline"] = _outline(truth.rle[t], truth.box[t], scale)
        entries.append(entry)
    return entries


def _seen(analysis: Analysis, t: int) -> list[float]:
    scores = analysis.detections.score
    by = (int(analysis.matches.detection_of[t]), int(analysis.errors.covered_by[t]))
    return [_score(scores[i]) if i >= 0 else -1 for i in by]


def _detections(run: dict[str, Analysis], image: int, scale: float) -> list[dict]:
    """The detections of an image, by descending score, with their kind for each task."""
    detections = next(iter(run.values())).detections
    low, high = np.searchsorted(detections.image, [image, image + 1])
    chosen = np.arange(low, high)[detections.score[low:high] >= LEAST_SCORE][:MOST_DETECTIONS]
    entries = []
    for d in chosen.tolist():
        entry: dict[str, Any] = {
            "class": int(detections.cls[d]),
            "score": _score(detections.score[d]),
            "box": _box(detections.box[d], scale),
            "kind": {task: int(analysis.errors.kind[d]) for task, analysis in run.items()},
        }
        meant = {
            task: int(a.truth.cls[a.errors.nearest[d]])
            for task, a in run.items()
            if a.errors.nearest[d] >= 0
        }
        if meant:
            entry["meant"] = meant
        if detections.rle is not None:
            entry["outline"] = _outline(detections.rle[d], detections.box[d], scale)
        entries.append(entry)
    return entries


def _score(score: float) -> float:
    """Rounded down, so that a threshold in steps of 0.01 divides as in the counts."""
    return float(np.floor(score * 1e4 + 1e-6) / 1e4)


def _box(box: np.ndarray, scale: float) -> list[float]:
    return [round(float(v) * scale, 1) for v in box]


def _outline(rle: dict, box: np.ndarray, scale: float) -> list[list[int]]:
    """Polygons x, y, x, y, ... around a mask, in pixels of the thumbnail."""
    mask = mask_util.decode(rle)
    height, width = mask.shape
    mask = cv2.resize(
        mask,
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST,
    )
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted(contours, key=cv2.contourArea, reverse=True)[:4]
    polygons = []
    for contour in contours:
        tolerance = 0.6
        while len(points := cv2.approxPolyDP(contour, tolerance, True)) > MOST_POINTS:
            tolerance *= 1.6
        if len(points) >= 3:
            polygons.append([int(v) for v in points.reshape(-1)])
    return polygons


def _thumbnail(truth: Truth, image: int, folder: Path, size: tuple[int, int]) -> bytes | None:
    """A JPEG of an image; None if it is missing, damaged, of another size or not in the folder."""
    path = os.path.realpath(folder / truth.file_names[image])
    if not path.startswith(os.path.realpath(folder).rstrip(os.sep) + os.sep):
        return None
    try:
        pixels = read_image(path, "BGR")
    except (OSError, ValueError):
        return None
    if pixels.shape[1::-1] != tuple(truth.sizes[image]):
        return None
    if pixels.shape[1::-1] != size:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    good, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return encoded.tobytes() if good else None
