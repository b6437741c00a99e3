"""The schema of COCO annotations: types, ids, boxes, flags, areas and segmentations.

The checks go through a file's content column by column, collect every problem in a
:class:`Report`, and repair in place what has only one meaning.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from hrnet_d2.text import printable

from .coco_boxes import check_boxes, is_number
from .coco_segmentations import check_segmentations_of
from .report import DatasetError, Report, entry_id, some

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


def check_categories(data: dict, report: Report, *, lenient: bool = False) -> None:
    """Check ids and names; several categories may have one name if ``lenient``."""
    categories = _objects(data, "categories", report)
    if not data["categories"]:
        report.errors.append('there are no "categories"')
    lacking = [c for c in categories if "id" not in c or "name" not in c]
    if lacking:
        report.errors.append(
            f"{len(lacking)} categories lack an id or a name, as {some(lacking[:1])}"
        )
    _whole_numbers(categories, "categories", "id", report)
    odd = [
        c
        for c in categories
        if not isinstance(c.get("name", ""), str) or not c.get("name", "x").strip()
    ]
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
    _check_names(good, report)


def _check_names(categories: list[dict], report: Report) -> None:
    """Names that differ only in how they are written, and control characters in names."""
    odd = [c for c in categories if printable(c["name"]) != c["name"]]
    for category in odd:
        category["name"] = printable(category["name"].strip())
    if odd:
        names = some(f"{c['name']!r} (id {c['id']})" for c in odd)
        report.repairs.append(f"{len(odd)} names of categories with control characters")
        report.warnings.append(
            f"{len(odd)} categories have a name with control characters, which are removed or "
            f"written as text: {names}"
        )
    alike: dict[str, set[str]] = {}
    for category in categories:
        plain = re.sub(r"[\s_-]+", " ", category["name"]).strip().casefold()
        alike.setdefault(plain, set()).add(category["name"])
    for variants in alike.values():
        if len(variants) > 1:
            report.warnings.append(
                f"the categories {', '.join(map(repr, sorted(variants)))} differ only in case, "
                "spaces or hyphens and are learned as different classes: merge them if they are one"
            )


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
                f"quotes): {some(repr(i[key]) for i in odd)} "
                f"(images {some(map(entry_id, odd))})"
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
    odd = [i for i in images if "file_name" in i and not _is_file_name(i["file_name"])]
    if odd:
        report.errors.append(
            f"{len(odd)} images have a file_name that is not a text: "
            f"{some(repr(i['file_name']) for i in odd)} (images {some(entry_id(i) for i in odd)})"
        )


def _is_file_name(value: Any) -> bool:
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()  # JSON may have halves of characters ("\ud800")
    except UnicodeEncodeError:
        return False
    return True


def check_annotations(
    data: dict,
    sizes: dict[int, tuple[int, int]],
    report: Report,
    *,
    masks: bool = False,
    lenient: bool = False,
) -> dict[str, int]:
    """Check the annotations, and repair in place what has only one meaning.

    Args:
        data: the content of the file.
        sizes: height and width of the images, by id.
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
    known = _references(data, annotations, sizes, report, lenient)
    _check_flags(annotations, "iscrowd", report)
    if not lenient:
        ignored = [entry_id(a) for a in annotations if "ignore" in a and _flag(a["ignore"]) != 0]
        if ignored:
            report.errors.append(
                f'{len(ignored)} annotations are marked "ignore" (ids {some(ignored)}), which '
                'Detectron2 does not support: remove them, or mark regions with "iscrowd": 1'
            )
    counts = check_boxes(annotations, sizes, report)
    _check_scores(annotations, report)
    _check_keypoints(annotations, report)
    check_segmentations_of(known, sizes, report, masks=masks)
    if not lenient:
        _find_repeated_objects(annotations, report)
    return counts


def _find_repeated_objects(annotations: list[dict], report: Report) -> None:
    """Objects of one image, category and box: a file that was merged with itself, mostly."""
    seen: set[tuple] = set()
    twice = []
    for annotation in annotations:
        box = annotation.get("bbox")
        if not isinstance(box, list):
            continue
        try:
            key = (annotation.get("image_id"), annotation.get("category_id"), *box)
            if key in seen:
                twice.append(entry_id(annotation))
            seen.add(key)
        except TypeError:  # a list or an object, which is reported elsewhere
            continue
    if twice:
        report.warnings.append(
            f"{len(twice)} of {len(annotations)} annotations repeat another one, with the same "
            f"image, category and box (ids {some(twice)}): they are learned, and counted, twice. "
            "Remove them if they are one object"
        )


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
        where = "" if key == "id" else f" ({table} {some(entry_id(e) for e in odd)})"
        report.errors.append(
            f"{key}s of {table} that are not whole numbers: {some(repr(e[key]) for e in odd)}"
            f"{where}; write them as numbers, without quotes"
        )
    return values


def _references(
    data: dict,
    annotations: list[dict],
    sizes: dict[int, tuple[int, int]],
    report: Report,
    lenient: bool,
) -> list[dict]:
    """Check "image_id" and "category_id"; returns the annotations whose image is known."""
    for key, table in (("image_id", "images"), ("category_id", "categories")):
        there = {e.get("id") for e in data[table] if isinstance(e, dict) and _is_whole(e.get("id"))}
        values = _whole_numbers(annotations, "annotations", key, report)
        if set(map(type, values)) <= {int} and there.issuperset(values):
            continue
        strangers = [v for v in values if _is_whole(v) and v not in there]
        if not strangers:
            continue
        listed = some(sorted(set(strangers)))
        if lenient and key == "image_id":
            data["annotations"] = [
                a for a in annotations if _is_whole(a.get(key)) and a[key] in there
            ]
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
            f"{some(entry_id(a) for a in repaired)})"
        )
    if odd:
        report.errors.append(
            f'{len(odd)} annotations have an "{key}" that is neither 0 nor 1: '
            f"{some(repr(a[key]) for a in odd)} (ids {some(entry_id(a) for a in odd)})"
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


def _check_scores(annotations: list[dict], report: Report) -> None:
    """Evaluation tools read the score of annotations too: it has no meaning, and is removed."""
    odd = [a for a in annotations if "score" in a and not is_number(a["score"])]
    for annotation in odd:
        del annotation["score"]
    if odd:
        report.repairs.append(
            f"{len(odd)} scores that are not numbers (removed; ids {some(map(entry_id, odd))})"
        )


def _check_keypoints(annotations: list[dict], report: Report) -> None:
    odd = []
    for annotation in annotations:
        if "keypoints" in annotation and not _are_keypoints(annotation["keypoints"]):
            odd.append(entry_id(annotation))
            del annotation["keypoints"]
            annotation.pop("num_keypoints", None)
    if odd:
        report.repairs.append(f"{len(odd)} malformed keypoints (removed)")
        report.warnings.append(
            f'{len(odd)} annotations have "keypoints" that are not a list of x, y, visibility (ids '
            f"{some(odd)}): they are not used"
        )


def _are_keypoints(value: Any) -> bool:
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(is_number, value))


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]
