"""Five images with one planted mistake of every kind, and random data with many of them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

SIDE = 200
CAT, DOG = 3, 7  # category ids

# image, category, box, crowd
OBJECTS = [
    (1, CAT, [10, 10, 40, 40], 0),  # found twice
    (2, CAT, [10, 10, 40, 40], 0),  # found as a dog
    (3, DOG, [10, 10, 40, 40], 0),  # found, but not closely
    (4, CAT, [10, 10, 40, 40], 0),  # missed, with a dog beside it
    (5, DOG, [10, 10, 40, 40], 0),  # missed
    (5, DOG, [100, 100, 60, 40], 0),  # found
    (5, CAT, [10, 100, 80, 80], 1),
]
# image, category, box, score, and what it is
DETECTIONS = [
    (1, CAT, [10, 10, 40, 40], 0.95, "correct"),
    (1, CAT, [12, 10, 40, 40], 0.60, "duplicate"),
    (2, DOG, [11, 11, 40, 40], 0.90, "classification"),
    (3, DOG, [30, 10, 40, 40], 0.80, "localization"),  # IoU 1/3
    (4, DOG, [30, 10, 40, 40], 0.70, "both"),
    (4, CAT, [120, 120, 40, 40], 0.85, "background"),
    (5, DOG, [100, 101, 60, 40], 0.99, "correct"),
    (5, CAT, [20, 110, 30, 30], 0.50, "ignored"),  # in the crowd
]
# What correcting one kind brings: with 101 recalls, a third of the objects is 34 points, half is
# 51, two thirds are 67.
COSTS = {
    "classification": ((67 + 34) / 2 - 34) / 101,
    "localization": ((34 + 34 + 33 * 2 / 3) / 2 - 34) / 101,
    "both": 0.0,
    "duplicate": 0.0,
    "background": 0.0,
    "missed": (51 - 34) / 101,
}


def polygon(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def encode(box: list[float], height: int, width: int) -> dict:
    rle = mask_util.merge(mask_util.frPyObjects([polygon(box)], height, width))
    return {"size": [height, width], "counts": rle["counts"].decode()}


def dataset(
    names: tuple[str, ...] = ("cat", "dog"), file_name: str = "{}.png", masks: bool = False
) -> dict[str, Any]:
    annotations = []
    for i, (image, category, box, crowd) in enumerate(OBJECTS, 1):
        annotation = {"id": i, "image_id": image, "category_id": category, "bbox": box}
        annotation |= {"area": box[2] * box[3], "iscrowd": crowd}
        if masks:
            annotation["segmentation"] = encode(box, SIDE, SIDE) if crowd else [polygon(box)]
        annotations.append(annotation)
    return {
        "images": [
            {"id": i, "file_name": file_name.format(i), "height": SIDE, "width": SIDE}
            for i in range(1, 6)
        ],
        "annotations": annotations,
        "categories": [
            {"id": CAT, "name": names[0]},
            {"id": DOG, "name": names[1]},
        ],
    }


def results(masks: bool = False) -> list[dict]:
    found = []
    for image, category, box, score, _ in DETECTIONS:
        result = {"image_id": image, "category_id": category, "bbox": box, "score": score}
        if masks:
            result["segmentation"] = encode(box, SIDE, SIDE)
        found.append(result)
    return found


def write(folder: Path, **options: Any) -> tuple[Path, Path, Path]:
    """Annotations, results and images of the five images; returns the three paths."""
    masks = options.get("masks", False)
    data = dataset(**options)
    images = folder / "images"
    images.mkdir(parents=True)
    for image in data["images"]:
        pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
        for other, _, (x, y, w, h), _ in OBJECTS:
            if other == image["id"]:
                pixels[y : y + h, x : x + w] = (60, 160, 220)
        if "/" not in image["file_name"]:
            cv2.imwrite(str(images / f"{image['id']}.png"), pixels)
            if (name := images / image["file_name"]) != images / f"{image['id']}.png":
                (images / f"{image['id']}.png").rename(name)
    paths = folder / "truth.json", folder / "results.json"
    paths[0].write_text(json.dumps(data))
    paths[1].write_text(json.dumps(results(masks)))
    return *paths, images


def random_data(seed: int, masks: bool = False) -> tuple[dict, list[dict]]:
    """40 images of three sizes and 6 classes, with crowds, ties of scores, and more than 100
    detections of a class in an image; a class has no object."""
    rng = np.random.default_rng(seed)
    sizes = [(320, 240), (200, 300), (640, 480)]
    images = [
        {"id": 5 * i + 2, "file_name": f"{i}.png", "width": w, "height": h}
        for i, (w, h) in enumerate(sizes[j] for j in rng.integers(0, 3, 40))
    ]
    categories = [{"id": 10 * k + 1, "name": f"class {k}"} for k in range(6)]
    annotations: list[dict] = []
    found: list[dict] = []

    def box_in(width: int, height: int) -> list[float]:
        w, h = np.exp(rng.uniform(1.5, np.log(min(width, height) * 0.8), 2))
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        return [round(float(v), 2) for v in (x, y, w, h)]

    for i, image in enumerate(images):
        width, height = image["width"], image["height"]

        def detect(box, category, score, image=image, width=width, height=height):
            x, y = max(0.0, box[0]), max(0.0, box[1])
            w, h = max(1.0, min(box[2], width - x)), max(1.0, min(box[3], height - y))
            result = {"image_id": image["id"], "category_id": category, "bbox": [x, y, w, h]}
            result["score"] = round(float(score), 2)  # so that many are equal
            if masks:
                result["segmentation"] = encode([x, y, w, h], height, width)
            found.append(result)

        for _ in range(rng.poisson(7)):
            box, category = box_in(width, height), 10 * int(rng.integers(0, 5)) + 1
            crowd = int(rng.random() < 0.08)
            annotation = {"id": len(annotations) + 1, "image_id": image["id"], "iscrowd": crowd}
            annotation |= {"category_id": category, "bbox": box, "area": 0.9 * box[2] * box[3]}
            if masks:
                annotation["segmentation"] = encode(box, height, width) if crowd else [polygon(box)]
            annotations.append(annotation)
            for _ in range(rng.poisson(1.3)):
                moved = np.array(box) + rng.normal(0, 0.12, 4) * np.array(2 * box[2:])
                other = 10 * int(rng.integers(0, 6)) + 1
                detect(moved.tolist(), category if rng.random() < 0.8 else other, rng.beta(4, 2))
        for _ in range(rng.poisson(4) + (150 if i == 3 else 0)):
            category = 1 if i == 3 else 10 * int(rng.integers(0, 6)) + 1
            detect(box_in(width, height), category, rng.beta(1, 3))
    return {"images": images, "annotations": annotations, "categories": categories}, found
