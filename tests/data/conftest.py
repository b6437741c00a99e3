"""Small COCO datasets on disk, which tests modify as they need."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg

from hrnet_d2 import add_hrnet_config

# Ids with gaps, and not in order.
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "bird"}]


class CocoFolder:
    """Three images of 60 x 40 pixels with two objects each."""

    def __init__(self, root: Path, name: str = "train"):
        self.json_file, self.images = root / f"{name}.json", root / f"{name}_images"
        (self.images / "sub").mkdir(parents=True)
        self.data = {
            "images": [
                {
                    "id": 10 + i,
                    "file_name": f"{'sub/' * (i == 2)}{i}.jpg",
                    "width": 60,
                    "height": 40,
                }
                for i in range(3)
            ],
            "annotations": [],
            "categories": copy.deepcopy(CATEGORIES),
        }
        for image in self.data["images"]:
            self.write_image(image["file_name"], 40, 60)
            for box in ([5, 5, 20, 10], [30, 8, 15, 25]):
                x, y, w, h = box
                number = len(self.data["annotations"])
                self.data["annotations"].append(
                    {
                        "id": number + 1,
                        "image_id": image["id"],
                        "category_id": CATEGORIES[number % 2]["id"],
                        "bbox": box,
                        "area": w * h,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    }
                )
        self.save()

    def write_image(self, name: str, height: int, width: int) -> None:
        rng = np.random.RandomState(height)
        image = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        assert cv2.imwrite(str(self.images / name), image)

    def save(self) -> None:
        self.json_file.write_text(json.dumps(self.data))

    @property
    def source(self) -> tuple[Path, Path]:
        return self.json_file, self.images


@pytest.fixture
def coco(tmp_path):
    return CocoFolder(tmp_path)


@pytest.fixture
def coco_val(tmp_path):
    return CocoFolder(tmp_path, "val")


@pytest.fixture
def cfg():
    """Two-stage, boxes only, no resize, two classes."""
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 1
    return cfg
