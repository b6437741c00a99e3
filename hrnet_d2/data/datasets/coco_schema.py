"""The schema of COCO annotations: types, ids, boxes, flags, areas and segmentations.

The checks go through a file's content column by column, collect every problem in a
:class:`Report`, and repair in place what has only one meaning.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from .coco_segmentations import check_segmentations_of
from .report import DatasetError, Report, some

__all__ = [
    "MAX_ID",
    "check_annotations",
    "check_categories",
    "check_images",
    "check_tables",
    "renumber_annotations",
    "renumber_ids",
]

MAX_ID = 2**53  # whole numbers up to here are exact in every tool that reads them
MAX_PIXELS = 2**31  # of an image: pycocotools counts in 32 bits
MAX_COORDINATE = 1e7  # of a box, in pixels

_ABSENT = object()
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "none": 0, "null": 0, "": 0}


def check_tables(data: Any, report: Report) -> None:
    """The three lists of a file; raises at once, since nothing else can be checked without them.

    Raises:
        DatasetError: if they are missing.
    """
    if isinstance(data, list):
        raise DatasetError(
            f"{report.path} holds a list, as files of COCO results do. Annotations are an object "
            'with "images", "annotations" and "categories"'
        )
    missing = [
        f'"{key}"'
        for key in ("images", "annotations", "categories")
        if not isinstance(data, dict) or not isinstance(data.get(key), list)
    ]
    if missing:
        raise DatasetError(
            f"{report.path} has no list of {', '.join(missing)}: a COCO annotation file has "
            '"images", "annotations" and "categories"'
        )


def check_categories(data: dict, report: Report, *, lenient: bool = False) -> list[dict]:
    """Check ids and names; several categories may have one name if ``lenient``.

    Returns:
        The categories without problems.
    """
    categories = _objects(data, "categories", report)
    if not data["categories"]:
        report.errors.append('there are no "categories"')
    lacking = [c for c in categories if "id" not in c or "name" not in c]
    if lacking:
        report.errors.append(
            f"{len(lacking)} categories lack an id or a name, as {some(lacking[:1])}"
        )
    _whole_numbers(categories, "categories", "id", report)
    odd = [c for c in categories if not isinstance(c.get("name", ""), str) or c.get("name") == ""]
    if odd:
        report.errors.append(
            f"{len(odd)} categories have a name that is not a text: "
            f"{some(repr(c['name']) for c in odd)}"
        )
    good = [c for c in categories if _is_whole(c.get("id")) and isinstance(c.get("name"), str)]
    for key in ("id",) if lenient else ("id", "name"):
        twice = _repeated([c[key] for c in good])
        if twice:
            report.errors.append(f"several categories have the {key} {some(twice)}")
    return good


def check_images(data: dict, report: Report) -> dict[int, tuple[int, int]]:
    """Check the images' fields.

    Returns:
        Height and width of the images without problems, by id.
    """
    images = _objects(data, "images", report)
    if not data["images"]:
        report.errors.append('there are no "images"')
    _report_missing(images, "images", ("id", "file_name", "width", "height"), report)
    ids = _whole_numbers(images, "images", "id", report)
    twice = _repeated(i for i in ids if _is_whole(i))
    if twice:
        report.errors.append(f"several images have the id {some(twice)}")
    for key in ("width", "height"):
        for image in images:
            value = image.get(key)
            if isinstance(value, float) and value.is_integer():
                image[key] = int(value)
        odd = [i for i in images if key in i and not (_is_whole(i[key]) and i[key] > 0)]
        if odd:
            report.errors.append(
                f"{len(odd)} images have a {key} that is not a whole number of pixels (without "
                f"quotes): {some(repr(i[key]) for i in odd)} (images {some(_id(i) for i in odd)})"
            )
    sizes = {
        i["id"]: (i["height"], i["width"])
        for i in images
        if _is_whole(i.get("id")) and _is_side(i.get("height")) and _is_side(i.get("width"))
    }
    large = [number for number, (height, width) in sizes.items() if height * width >= MAX_PIXELS]
    if large:
        report.errors.append(
            f"{len(large)} images have a width and height of more than {MAX_PIXELS} pixels: "
            f"images {some(large)}"
        )
        sizes = {number: size for number, size in sizes.items() if number not in set(large)}
    _check_file_names(images, report)
    return sizes


def _check_file_names(images: list[dict], report: Report) -> None:
    odd = [
        i
        for i in images
        if "file_name" in i
        and not (isinstance(i["file_name"], str) and i["file_name"] and "\0" not in i["file_name"])
    ]
    if odd:
        report.errors.append(
            f"{len(odd)} images have a file_name that is not a text: "
            f"{some(repr(i['file_name']) for i in odd)} (images {some(_id(i) for i in odd)})"
        )


def check_annotations(
    data: dict,
    sizes: dict[int, tuple[int, int]],
    categories: list[dict],
    report: Report,
    *,
    masks: bool = False,
    lenient: bool = False,
) -> dict[str, int]:
    """Check the annotations, and repair in place what has only one meaning.

    Args:
        data: the content of the file.
        sizes: height and width of the images, by id.
        categories: those without problems.
        report: takes the problems.
        masks: malformed segmentations are errors; otherwise they are removed, with a warning.
        lenient: accept what Detectron2's loader accepts: repeated ids (renumbered), unknown images
            (their annotations are dropped), "ignore".

    Returns:
        Numbers of annotations: "crowds", "small" (boxes less than a pixel wide or high),
        "outside" (boxes outside their image) and "usable" (the others).
    """
    annotations = _objects(data, "annotations", report)
    _report_missing(annotations, "annotations", ("id", "image_id", "category_id", "bbox"), report)
    ids = _whole_numbers(annotations, "annotations", "id", report)
    if set(map(type, ids)) <= {int} and len(set(ids)) != len(ids):
        if lenient:
            for number, annotation in enumerate(annotations, start=1):
                annotation["id"] = number
            report.repairs.append("repeated ids of annotations")
        else:
            report.errors.append(
                f"several annotations have the id {some(_repeated(ids))}: each needs its own"
            )
    known = _references(data, annotations, sizes, categories, report, lenient)
    _check_flags(annotations, "iscrowd", report)
    if not lenient:
        ignored = [_id(a) for a in annotations if "ignore" in a and _flag(a["ignore"]) != 0]
        if ignored:
            report.errors.append(
                f'{len(ignored)} annotations are marked "ignore" (ids {some(ignored)}), which '
                'Detectron2 does not support: remove them, or mark regions with "iscrowd": 1'
            )
    boxed, boxes = _boxes(known, report)
    counts = _check_boxes(boxed, boxes, sizes, report)
    _check_areas(boxed, report)
    _check_scores(annotations, report)
    _check_keypoints(annotations, report)
    check_segmentations_of(known, sizes, report, masks=masks)
    return counts


def renumber_ids(data: dict, report: Report) -> None:
    """Give the entries of a checked file ids that every evaluation tool takes.

    COCO's evaluation uses an annotation's id as a mark of a match, and 0 for none; the fast ones
    keep it in 64 bits and take negative ids for none too.  The order of ids is kept.
    """
    renumber_annotations(data, report)
    for table, key in (("images", "image_id"), ("categories", "category_id")):
        order = _renumber(data[table], table, 0, report)
        for annotation in data["annotations"] if order else ():
            annotation[key] = order[annotation[key]]


def renumber_annotations(data: dict, report: Report) -> None:
    """:func:`renumber_ids` of the annotations alone."""
    _renumber(data["annotations"], "annotations", 1, report)


def _renumber(entries: list[dict], table: str, least: int, report: Report) -> dict[int, int]:
    """New ids by old ones; empty if all ids are from ``least`` to ``MAX_ID``."""
    ids = [entry["id"] for entry in entries]
    if not ids or (min(ids) >= least and max(ids) <= MAX_ID):
        return {}
    order = {old: new for new, old in enumerate(sorted(ids), start=1)}
    for entry in entries:
        entry["id"] = order[entry["id"]]
    report.repairs.append(f"ids of {table} that evaluation tools do not take (renumbered)")
    return order


def _objects(data: dict, table: str, report: Report) -> list[dict]:
    """The entries of a table that are JSON objects."""
    entries = [e for e in data[table] if isinstance(e, dict)]
    if len(entries) != len(data[table]):
        odd = [repr(e) for e in data[table] if not isinstance(e, dict)]
        report.errors.append(
            f'{len(odd)} entries of "{table}" are not JSON objects ({{...}}): {some(odd)}'
        )
    return entries


def _report_missing(entries: list[dict], table: str, keys: Iterable[str], report: Report) -> None:
    for key in keys:
        lacking = [e for e in entries if key not in e]
        if lacking:
            example = {k: v for k, v in lacking[0].items() if k != "segmentation"}
            report.errors.append(f'{len(lacking)} {table} lack "{key}", as {some([example])}')


def _whole_numbers(entries: list[dict], table: str, key: str, report: Report) -> list:
    """The values of a column; those that are not whole numbers are reported."""
    values = [e[key] for e in entries if key in e]
    if not set(map(type, values)) <= {int}:
        odd = [e for e in entries if key in e and not _is_whole(e[key])]
        where = "" if key == "id" else f" ({table} {some(_id(e) for e in odd)})"
        report.errors.append(
            f"{key}s of {table} that are not whole numbers: {some(repr(e[key]) for e in odd)}"
            f"{where}; write them as numbers, without quotes"
        )
    return values


def _references(
    data: dict,
    annotations: list[dict],
    sizes: dict[int, tuple[int, int]],
    categories: list[dict],
    report: Report,
    lenient: bool,
) -> list[dict]:
    """Check "image_id" and "category_id"; returns the annotations whose image is known."""
    image_ids = {i.get("id") for i in data["images"] if isinstance(i, dict) and _hashable(i)}
    category_ids = {c["id"] for c in categories}
    for key, table, there in (
        ("image_id", "images", image_ids),
        ("category_id", "categories", category_ids),
    ):
        values = _whole_numbers(annotations, "annotations", key, report)
        if set(map(type, values)) <= {int} and there.issuperset(values):
            continue
        strangers = [v for v in values if _is_whole(v) and v not in there]
        if not strangers:
            continue
        listed = some(sorted(set(strangers)))
        if lenient and key == "image_id":
            data["annotations"] = [a for a in annotations if a.get(key) in there]
            report.warnings.append(
                f'{len(strangers)} annotations have an image_id that "images" lacks and are not '
                f"used: {listed}"
            )
        else:
            article = "an" if key == "image_id" else "a"
            report.errors.append(
                f'{len(strangers)} annotations have {article} {key} that "{table}" lacks: {listed}'
            )
    images = [a.get("image_id") for a in annotations]
    if set(map(type, images)) <= {int} and sizes.keys() >= set(images):
        return annotations
    return [a for a in annotations if _is_whole(a.get("image_id")) and a["image_id"] in sizes]


def _check_flags(annotations: list[dict], key: str, report: Report) -> None:
    """Make a flag 0 or 1; it is 0 if it is absent."""
    absent = [a for a in annotations if key not in a]
    for annotation in absent:
        annotation[key] = 0
    if absent:
        report.repairs.append(f'{len(absent)} annotations without "{key}" (0)')
    values = [a[key] for a in annotations]
    if set(map(type, values)) <= {int} and set(values) <= {0, 1}:
        return
    odd, repaired = [], []
    for annotation in annotations:
        value = annotation[key]
        if type(value) is int and value in (0, 1):
            continue
        flag = _flag(value)
        if flag is None:
            odd.append(annotation)
        else:
            annotation[key] = flag
            repaired.append(annotation)
    if repaired:
        report.repairs.append(
            f'{len(repaired)} values of "{key}" that are not 0 or 1 (ids '
            f"{some(_id(a) for a in repaired)})"
        )
    if odd:
        report.errors.append(
            f'{len(odd)} annotations have an "{key}" that is neither 0 nor 1: '
            f"{some(repr(a[key]) for a in odd)} (ids {some(_id(a) for a in odd)})"
        )


def _flag(value: Any) -> int | None:
    """0 or 1, or None if ``value`` is no flag."""
    if value is None:
        return 0
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    return None


def _boxes(annotations: list[dict], report: Report) -> tuple[list[dict], np.ndarray]:
    """The annotations whose box is sound, and these boxes, (N, 4)."""
    boxed = [a for a in annotations if "bbox" in a]
    boxes = [a["bbox"] for a in boxed]
    plain = set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}
    if not plain or not set(map(type, itertools.chain.from_iterable(boxes))) <= {int, float}:
        plain = False
    if plain:
        try:
            numbers = itertools.chain.from_iterable(boxes)
            array = np.fromiter(numbers, np.float64, count=4 * len(boxes)).reshape(-1, 4)
            if (np.abs(array) < MAX_COORDINATE).all():
                return boxed, array
        except OverflowError:
            pass
    odd = [a for a in boxed if not _is_box(a["bbox"])]
    far = [a for a in boxed if _is_box(a["bbox"]) and not _is_box(a["bbox"], MAX_COORDINATE)]
    if odd:
        report.errors.append(
            "boxes that are not four finite numbers (x, y, width, height): ids "
            f"{some(_id(a) for a in odd)}"
        )
    if far:
        report.errors.append(
            f"boxes with numbers beyond {MAX_COORDINATE:.0e} pixels: ids "
            f"{some(_id(a) for a in far)}"
        )
    boxed = [a for a in boxed if _is_box(a["bbox"], MAX_COORDINATE)]
    return boxed, np.array([a["bbox"] for a in boxed], dtype=np.float64).reshape(-1, 4)


def _check_boxes(
    annotations: list[dict],
    boxes: np.ndarray,
    sizes: dict[int, tuple[int, int]],
    report: Report,
) -> dict[str, int]:
    shapes = itertools.chain.from_iterable(sizes[a["image_id"]] for a in annotations)
    height, width = np.fromiter(shapes, np.float64, count=2 * len(annotations)).reshape(-1, 2).T
    x, y, w, h = boxes.T
    crowd = np.fromiter((a["iscrowd"] == 1 for a in annotations), bool, count=len(annotations))
    small = (w < 1) | (h < 1)
    outside = ~small & ((x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0))
    total = len(annotations)
    for chosen, what in (
        (small, "are less than a pixel wide or high"),
        (outside, "miss their image"),
    ):
        if chosen.any():
            ids = [_id(annotations[i]) for i in np.flatnonzero(chosen)]
            report.warnings.append(
                f"{len(ids)} of {total} boxes {what} and are left out of training (annotations "
                f"{some(ids)})"
            )
    leaving = (x + w > width + 2) | (y + h > height + 2)
    if 2 * leaving.sum() > total:
        corners = (w > x) & (h > y) & (w <= width + 2) & (h <= height + 2)
        text = f"{leaving.sum()} of {total} boxes, most of all, leave their image"
        if total >= 4 and corners.mean() > 0.95:
            report.errors.append(
                f"{text}, and all fit as corners: they seem to be written as x1, y1, x2, y2, and "
                "COCO's are x, y, width, height. Convert them (width = x2 - x1, height = y2 - y1); "
                "if they are right, clip them to their image"
            )
        else:
            report.warnings.append(
                f"{text}: check that they are x, y, width, height in pixels of the image, and not "
                "x1, y1, x2, y2"
            )
    usable = ~small & ~outside & ~crowd
    return {
        "crowds": int(crowd.sum()),
        "small": int(small.sum()),
        "outside": int(outside.sum()),
        "usable": int(usable.sum()),
    }


def _check_areas(annotations: list[dict], report: Report) -> None:
    """Areas that are missing or no areas become those of the boxes."""
    values = [a.get("area", _ABSENT) for a in annotations]
    if set(map(type, values)) <= {int, float}:
        try:
            array = np.array(values, dtype=np.float64)
            if ((array >= 0) & np.isfinite(array)).all():
                return
        except OverflowError:
            pass
    absent: list = []
    odd: list = []
    for annotation, value in zip(annotations, values, strict=True):
        if not _is_number(value) or value < 0:
            _, _, w, h = annotation["bbox"]
            annotation["area"] = max(w, 0) * max(h, 0)
            (absent if value is _ABSENT or value is None else odd).append(_id(annotation))
    if absent:
        report.repairs.append(f"{len(absent)} annotations without area (the box's)")
    if odd:
        report.repairs.append(f"{len(odd)} areas that are no areas (the box's; ids {some(odd)})")
        report.warnings.append(
            f'{len(odd)} annotations have an "area" that is not a number of at least 0 (ids '
            f"{some(odd)}): the area of the box is used"
        )


def _check_scores(annotations: list[dict], report: Report) -> None:
    """Evaluation tools read the score of annotations too: it has no meaning, and is removed."""
    odd = [a for a in annotations if "score" in a and not _is_number(a["score"])]
    for annotation in odd:
        del annotation["score"]
    if odd:
        report.repairs.append(
            f"{len(odd)} scores that are not numbers (removed; ids {some(_id(a) for a in odd)})"
        )


def _check_keypoints(annotations: list[dict], report: Report) -> None:
    odd = []
    for annotation in annotations:
        if "keypoints" in annotation and not _are_keypoints(annotation["keypoints"]):
            odd.append(_id(annotation))
            del annotation["keypoints"]
            annotation.pop("num_keypoints", None)
    if odd:
        report.repairs.append(f"{len(odd)} malformed keypoints (removed)")
        report.warnings.append(
            f'{len(odd)} annotations have "keypoints" that are not a list of x, y, visibility (ids '
            f"{some(odd)}): they are not used"
        )


def _are_keypoints(value: Any) -> bool:
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(_is_number, value))


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are not."""
    if type(value) is int:
        return abs(value) < 1 << 1000
    return type(value) is float and bool(np.isfinite(value))


def _is_box(value: Any, limit: float = np.inf) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) in (int, float) and abs(v) < limit for v in value)
    )


def _hashable(entry: dict) -> bool:
    return not isinstance(entry.get("id"), list | dict)


def _id(entry: dict) -> Any:
    return entry.get("id", "none")


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]
