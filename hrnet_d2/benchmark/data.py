"""Milliseconds that the training data cost for each image, on one core."""

import argparse
import functools
import os
import tempfile

import cv2
import numpy as np
from detectron2.structures import BoxMode

from hrnet_d2 import model_zoo
from hrnet_d2.data import HRNetDatasetMapper, InferenceInput, read_image

from .measuring import summary, time_interleaved
from .synthetic import synthetic_image

__all__ = ["run_data"]

HEIGHT, WIDTH = 480, 640
OBJECTS = 7  # of an image, as in COCO on average
FASTER = "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml"
MASK = "mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml"


def _record(path: str) -> dict:
    """A dataset record in Detectron2's format, with polygons of 24 corners."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    annotations = []
    for _ in range(OBJECTS):
        size = rng.uniform(30, 200, 2)
        start = rng.uniform(0, 1, 2) * ([WIDTH, HEIGHT] - size)
        polygon = start + size / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], 1))
        annotations.append(
            {
                "bbox": [*start, *size],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "iscrowd": 0,
                "segmentation": [polygon.ravel().tolist()],
            }
        )
    record = {"file_name": path, "height": HEIGHT, "width": WIDTH, "image_id": 1}
    return {**record, "annotations": annotations}


def run_data(args: argparse.Namespace) -> list[dict]:
    """A row for each step, on a JPEG of 480 x 640 that becomes 800 x 1067."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "image.jpg")
        cv2.imwrite(path, synthetic_image(HEIGHT, WIDTH))
        image, record = cv2.imread(path), _record(path)
        calls = {}
        for backend in ("opencv", "detectron2"):
            options = ["INPUT.BACKEND", backend]
            boxes, masks = (model_zoo.load_config(config, options) for config in (FASTER, MASK))
            calls[f"read_{backend}"] = functools.partial(read_image, path, "RGB", backend)
            calls[f"resize_{backend}"] = functools.partial(InferenceInput(boxes), image)
            for name, cfg in (("boxes", boxes), ("masks", masks)):
                mapper = HRNetDatasetMapper(cfg, is_train=True)
                calls[f"training_image_with_{name}_{backend}"] = functools.partial(mapper, record)
        for name, seconds in time_interleaved(calls, args.repeat * 10, "cpu").items():
            rows.append({"step": name, **summary(seconds)})
            print(name, rows[-1]["median_ms"], "ms an image")
    return rows
