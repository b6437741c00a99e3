"""Detections as COCO's JSON."""

import json
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from hrnet_d2.data.categories import category_id
from hrnet_d2.evaluation.rle import encode_masks

from .model import Category

__all__ = ["to_json"]

IMAGE_ID = 1


def to_json(
    instances: Instances,
    categories: Sequence[Category],
    *,
    file_name: str = "",
    threshold: float = 0.0,
    masks: bool = True,
) -> bytes:
    """A COCO file of one image whose annotations are the detections.

    Boxes, scores and run-length encodings are those of the COCO results that an evaluation writes.

    Args:
        instances: of the image, on the CPU.
        categories: by the number of the class.
        file_name: of the image, as the client calls it.
        threshold: the least score.
        masks: whether to give them, if the model predicts any.
    """
    instances = instances[instances.scores >= threshold]
    rles = None
    if instances.has("pred_masks"):
        rles = encode_masks(instances.pred_masks) if masks else None
        instances.remove("pred_masks")
    used = dict(enumerate(categories))
    annotations = instances_to_coco_json(instances, IMAGE_ID)
    for i, annotation in enumerate(annotations):
        number = annotation["category_id"]
        category = used.setdefault(number, Category(category_id(number, ()), f"class {number}"))
        annotation["id"] = i + 1
        annotation["category_id"] = category.id
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        annotation["iscrowd"] = 0
        if rles is not None:
            annotation["segmentation"] = rles[i]
            annotation["area"] = _area(rles[i])
    height, width = instances.image_size
    image = {"id": IMAGE_ID, "file_name": file_name, "width": width, "height": height}
    document = {
        "images": [image],
        "categories": [{"id": c.id, "name": c.name} for _, c in sorted(used.items())],
        "annotations": annotations,
    }
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _area(rle: dict[str, Any]) -> int:
    import pycocotools.mask as mask_util

    return int(mask_util.area(rle))
