"""``hrnet-d2 check``: what training would refuse or skip in custom data, before training."""

import argparse
import logging
from collections import Counter
from collections.abc import Sequence

from detectron2.utils.logger import setup_logger

from hrnet_d2.data import DatasetError
from hrnet_d2.data.datasets.coco_check import CocoFile, check_same_categories, read_coco

__all__ = ["main"]

MOST_CLASSES = 20


def main(arguments: Sequence[str], prog: str) -> int:
    """Print a report of each file; the status is 1 if one of them cannot be used."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Check COCO annotation files and that their images exist."
    )
    parser.add_argument("json", metavar="JSON", help="annotation file")
    parser.add_argument("images", metavar="IMAGES", help="folder of its images")
    parser.add_argument(
        "--val-data",
        nargs=2,
        metavar=("JSON", "IMAGES"),
        help="validation data, whose categories must be the same",
    )
    parser.add_argument(
        "--masks", action="store_true", help="for a model of masks: bad segmentations are errors"
    )
    args = parser.parse_args(arguments)
    setup_logger(name="hrnet_d2").setLevel(logging.WARNING)
    sources = [(args.json, args.images)] + ([tuple(args.val_data)] if args.val_data else [])
    files = []
    for path, images in sources:
        try:
            files.append(read_coco(path, images, masks=args.masks))
            _report(files[-1])
        except (DatasetError, FileNotFoundError) as error:
            print(f"{error}\n")
    if len(files) == 2:
        try:
            check_same_categories(*files)
        except DatasetError as error:
            print(f"{error}\n")
            return 1
    if len(files) < len(sources):
        print("Not usable as it is")
        return 1
    print("No error found")
    return 0


def _report(file: CocoFile) -> None:
    images, annotations = file.data["images"], file.data["annotations"]
    names = dict(file.categories)
    counts = Counter(names.get(a["category_id"], a["category_id"]) for a in annotations)
    empty = len(images) - len({a["image_id"] for a in annotations})
    segmented = sum(bool(a.get("segmentation")) for a in annotations)
    print(
        f"{file.path}: {len(images)} images ({empty} without objects), {len(annotations)} objects "
        f"({segmented} with a segmentation), {len(names)} classes"
    )
    for name in list(names.values())[:MOST_CLASSES]:
        print(f"  {counts[name]:8d}  {name}")
    if len(names) > MOST_CLASSES:
        print(f"  ... and {len(names) - MOST_CLASSES} more classes")
    print()
