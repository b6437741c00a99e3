"""Ground truth that was registered by others, checked before an evaluation tool sees it.

On malformed segmentations these tools read uninitialized memory, hang or crash, and ids and areas
that they do not take change the numbers without a word.
"""

import logging
from typing import Any

from hrnet_d2.data import DatasetError
from hrnet_d2.data.datasets.coco_check import check_coco
from hrnet_d2.data.datasets.coco_schema import renumber_annotations
from hrnet_d2.data.datasets.report import Report, some
from hrnet_d2.data.masks import check_segmentations

__all__ = [
    "check_ground_truth",
    "evaluated_fields",
    "require_segmentations",
]

logger = logging.getLogger(__name__)

# What evaluation of boxes and masks reads. Tools read other fields too if they are there.
IMAGE_FIELDS = ("id", "width", "height")
ANNOTATION_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def check_ground_truth(dataset: dict, source: str, *, masks: bool = False) -> None:
    """Check the content of an annotation file, and repair in place what has only one meaning.

    Args:
        dataset: the parsed file.
        source: its path, for messages.
        masks: every object must have a segmentation. Otherwise malformed ones are removed.

    Raises:
        DatasetError: if it is invalid; the message has all problems.
    """
    report = Report(source)
    counts = check_coco(dataset, report, masks=masks, lenient=True)
    for table in ("images", "categories"):
        far = [e["id"] for e in dataset[table] if isinstance(e, dict) and _is_too_long(e.get("id"))]
        if far:
            report.errors.append(
                f"{len(far)} ids of {table} have more than 64 bits: {some(far)}. Renumber them, "
                "or use hrnet_d2.data.register_custom_data, which does"
            )
    report.raise_errors()
    renumber_annotations(dataset, report)
    report.log_warnings(logger)
    if report.repairs:
        logger.info("%s: corrected for the evaluation: %s", source, "; ".join(report.repairs))
    if masks:
        require_segmentations(dataset, source)
    total = len(dataset["annotations"])
    if total == counts["crowds"]:
        logger.warning(
            "%s has no objects to evaluate on (%d annotations, all of them crowds): every AP will "
            "be undefined (nan)",
            source,
            total,
        )


def require_segmentations(dataset: dict, source: str) -> None:
    """Check that all objects, crowds included, have a segmentation.

    Raises:
        DatasetError: if one has none; those that were malformed were removed before.
    """
    annotations = ((a, f"annotation id {a['id']}") for a in dataset["annotations"])
    try:
        check_segmentations(annotations, source, crowds=True)
    except ValueError as error:
        raise DatasetError(str(error)) from None


def evaluated_fields(dataset: dict) -> dict[str, Any]:
    """A copy of checked ground truth with the fields that matter, and no others."""
    return {
        "info": {},
        "images": [{k: image[k] for k in IMAGE_FIELDS} for image in dataset["images"]],
        "annotations": [
            {k: a[k] for k in ANNOTATION_FIELDS if k in a} for a in dataset["annotations"]
        ],
        "categories": [{"id": c["id"], "name": c["name"]} for c in dataset["categories"]],
    }


def _is_too_long(number: Any) -> bool:
    return isinstance(number, int) and not -(2**63) <= number < 2**63
