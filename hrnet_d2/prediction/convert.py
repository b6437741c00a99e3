"""From detections to the objects of other libraries."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import Instances

from hrnet_d2.config_file import ConfigError

from .result import Prediction, from_instances
from .writers.coco import coco_results

__all__ = ["to_coco", "to_supervision"]


def _prediction(output: Prediction | Instances | Mapping[str, Any]) -> Prediction:
    if isinstance(output, Prediction):
        return output
    instances = output if isinstance(output, Instances) else output["instances"]
    return from_instances(instances)


def to_coco(
    output: Prediction | Instances | Mapping[str, Any],
    image_id: int,
    category_ids: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Detections in COCO's results format, ready for JSON.

    Args:
        output: what ``Predictor`` gives for an image, its "instances", or a :class:`Prediction`.
        image_id: of the image in the annotation file.
        category_ids: of the classes there, by the number of the class; empty: the number + 1.

    Returns:
        A dict for each detection with "image_id", "category_id", "bbox" (x, y, width, height in
        pixels), "score" and, if there are masks, "segmentation" (a run-length encoding).
    """
    return coco_results(_prediction(output), image_id, category_ids)


def to_supervision(
    output: Prediction | Instances | Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    *,
    compact: bool = False,
) -> Any:
    """Detections as ``supervision.Detections``.

    Args:
        output: what ``Predictor`` gives for an image, its "instances", or a :class:`Prediction`.
        class_names: by the number of the class, such as ``predictor.metadata.thing_classes``; they
            become ``data["class_name"]``.
        compact: masks as supervision's ``CompactMask`` in place of an (N, H, W) array: large
            images with many objects fit into memory.

    Raises:
        ConfigError: if supervision is not installed.
    """
    sv = import_supervision("supervision.Detections")
    found = _prediction(output)
    masks: Any = None
    if found.masks is not None:
        size = (found.height, found.width)
        if compact:
            # Its boxes are of whole pixels, both ends included.
            low, high = np.floor(found.boxes[:, :2]), np.ceil(found.boxes[:, 2:])
            masks = sv.CompactMask.from_coco_rle(found.masks, np.hstack([low, high]), size)
        else:
            masks = np.zeros((len(found), *size), bool)
            for i in range(len(found)):
                masks[i] = found.mask(i)
    data = {}
    if class_names is not None:
        named = [class_names[c] if c < len(class_names) else str(c) for c in found.classes]
        data["class_name"] = np.array(named, dtype=str)
    return sv.Detections(
        xyxy=found.boxes.astype(np.float32),
        mask=masks,
        confidence=found.scores,
        class_id=found.classes.astype(int),
        tracker_id=found.tracks,
        data=data,
    )


def import_supervision(what: str) -> Any:
    """
    Args:
        what: needs it.

    Raises:
        ConfigError: if supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ConfigError(
            f"{what} needs the package supervision, which is not installed: pip install "
            f"'hrnet_d2[predict]' ({error})"
        ) from error
    return supervision
