"""What tiles find in a large image of known pictures that the image as a whole does not."""

import argparse
import time
from typing import Any

import numpy as np

from hrnet_d2 import model_zoo
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data.datasets.shapes import SPLITS, draw
from hrnet_d2.engine import Predictor
from hrnet_d2.prediction import Detector, Prediction
from hrnet_d2.prediction.tiles import TiledDetector

from .measuring import resident_memory
from .prediction import sampled_memory

__all__ = ["large_image", "recall_and_precision", "run_tiles"]

CELL = 160  # pixels; the largest side of a built-in picture
# Sides of objects, as the square root of their box's area in pixels.
SIZES = {"below 32": (0, 32), "32 to 48": (32, 48), "above 48": (48, 1e9)}
SCORE = 0.5
IOU = 0.5


def large_image(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Built-in validation pictures side by side.

    Args:
        height, width: of the image.

    Returns:
        The image (H, W, 3) uint8 BGR; the objects' boxes (N, 4), x1, y1, x2, y2; their classes.
    """
    image = np.full((height, width, 3), 128, np.uint8)
    boxes: list[list[float]] = []
    classes: list[int] = []
    _, seed = SPLITS["val"]
    index = 0
    for y in range(0, height - CELL + 1, CELL):
        for x in range(0, width - CELL + 1, CELL):
            picture, _, objects = draw(seed, index)
            index += 1
            image[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            for item in objects:
                left, top, w, h = item["bbox"]
                boxes.append([left + x, top + y, left + x + w, top + y + h])
                classes.append(item["category_id"] - 1)
    return image, np.array(boxes), np.array(classes)


def recall_and_precision(
    found: Prediction, boxes: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, float]:
    """Match detections with objects, best score first, at an IoU of 0.5.

    Args:
        found: the detections.
        boxes, classes: of the objects.

    Returns:
        Which objects are found, (N,) bool; the share of detections that are right.
    """
    hit = np.zeros(len(boxes), bool)
    right = 0
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for box, cls in zip(found.boxes, found.classes, strict=True):
        low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
        common = np.maximum(high - low, 0).prod(1)
        iou = common / (areas + (box[2:] - box[:2]).prod() - common)
        iou[hit | (classes != cls)] = 0
        if len(iou) and iou.max() >= IOU:
            hit[iou.argmax()] = True
            right += 1
    return hit, right / max(1, len(found))


def run_tiles(args: argparse.Namespace) -> list[dict]:
    """A row for the whole image, and one for each way to merge tiles."""
    if not args.weights:
        raise ConfigError("--weights: give a model that was trained on the built-in data")
    height, width = args.size
    image, boxes, classes = large_image(height, width)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    options = ["MODEL.DEVICE", args.device, *args.opts, "MODEL.WEIGHTS", args.weights]
    # As other detectors see an image: shorter side 800, longer at most 1333 pixels.
    resized = ["INPUT.MIN_SIZE_TEST", "800", "INPUT.MAX_SIZE_TEST", "1333"]
    cases: dict[str, Any] = {
        "whole": Detector(_predictor(args, [*options, *resized]), SCORE, args.batch_size)
    }
    inner = Detector(_predictor(args, options), SCORE, args.batch_size)
    for merge in ("nms", "nmm"):
        cases[f"tiles, {merge}"] = TiledDetector(inner, args.tile, args.overlap, merge)
    rows = []
    for name, detector in cases.items():
        start, before = time.perf_counter(), resident_memory()
        with sampled_memory(0.05) as memory:
            (found,) = detector([image])
        seconds = time.perf_counter() - start
        hit, precision = recall_and_precision(found, boxes, classes)
        row: dict[str, Any] = {
            "case": name,
            "size": args.size,
            "tile": args.tile,
            "overlap": args.overlap,
            "objects": len(boxes),
            "detections": len(found),
            "precision": round(precision, 4),
            "recall": round(float(hit.mean()), 4),
            "seconds": round(seconds, 1),
            "more_memory_bytes": max(memory, default=before) - before,
        }
        for label, (least, most) in SIZES.items():
            of_size = (sides >= least) & (sides < most)
            row[f"objects {label} px"] = int(of_size.sum())
            row[f"recall {label} px"] = round(float(hit[of_size].mean()), 4)
        rows.append(row)
        recalls = ", ".join(f"{row[f'recall {label} px']:.3f} {label} px" for label in SIZES)
        print(
            f"{name}: recall {row['recall']:.3f} of {len(boxes)} objects ({recalls}), precision "
            f"{precision:.3f}, {seconds:.1f} s, {row['more_memory_bytes'] / 2**20:+.0f} MiB"
        )
    return rows


def _predictor(args: argparse.Namespace, options: list[str]) -> Predictor:
    return Predictor(model_zoo.load_config(args.config[0], options))
