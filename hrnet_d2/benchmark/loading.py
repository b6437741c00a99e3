"""Images that the training loader delivers in a second, by its number of worker processes."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from hrnet_d2 import model_zoo
from hrnet_d2.data import build_train_loader, set_num_classes

from .synthetic import synthetic_image

__all__ = ["run_loading"]

HEIGHT, WIDTH = 480, 640
FILES = 64
OBJECTS = 7  # of an image, as in COCO on average
CORNERS = 24
NAME = "synthetic_coco_for_loading"


def _write_dataset(folder: str) -> str:
    """JPEG files and their annotations with polygons; returns the path of the annotations."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    images: list[dict] = []
    annotations: list[dict] = []
    for i in range(1, FILES + 1):
        name = f"{i}.jpg"
        cv2.imwrite(os.path.join(folder, name), synthetic_image(HEIGHT, WIDTH, seed=i))
        images.append({"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for _ in range(OBJECTS):
            size = rng.uniform(30, 200, 2)
            start = rng.uniform(0, 1, 2) * ([WIDTH, HEIGHT] - size)
            polygon = start + size / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], 1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [*start, *size],
                    "area": float(size.prod()),
                    "iscrowd": 0,
                    "segmentation": [polygon.ravel().tolist()],
                }
            )
    path = os.path.join(folder, "annotations.json")
    data = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file)
    return path


def _rate(cfg: CfgNode, batches: int) -> float:
    """Images in a second, once every worker has delivered."""
    loader: Iterator[Any] = iter(build_train_loader(cfg))
    for _ in range(2 + cfg.DATALOADER.NUM_WORKERS):
        next(loader)
    start = time.perf_counter()
    images = sum(len(next(loader)) for _ in range(batches))
    return images / (time.perf_counter() - start)


def run_loading(args: argparse.Namespace) -> list[dict]:
    """A row for each config and number of workers, on JPEGs of 480 x 640 that become 800 x 1067."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        register_coco_instances(NAME, {}, _write_dataset(folder), folder)
        try:
            for config in args.config:
                for workers in args.processes:
                    options = ["DATASETS.TRAIN", (NAME,), "DATALOADER.NUM_WORKERS", workers]
                    options += ["SOLVER.IMS_PER_BATCH", args.batch, "MODEL.DEVICE", "cpu"]
                    options += ["MODEL.HTC.SEMANTIC_ON", False]
                    cfg = model_zoo.load_config(config, [*map(str, options), *args.opts])
                    set_num_classes(cfg, 1)
                    batches = args.repeat * max(1, workers)
                    rate = round(_rate(cfg, batches), 1)
                    rows.append({"config": config, "workers": workers, "batch": args.batch})
                    rows[-1].update(images=batches * args.batch, images_per_second=rate)
                    print(f"{config}, {workers} workers: {rate} images/s", flush=True)
        finally:
            DatasetCatalog.remove(NAME)
            MetadataCatalog.remove(NAME)
    return rows
