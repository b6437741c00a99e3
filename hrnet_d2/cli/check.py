"""``hrnet-d2 check``: everything that is wrong with custom data, and what they contain."""

import argparse
import logging
from pathlib import Path

from detectron2.utils.logger import setup_logger

from hrnet_d2.arguments.check import PAGE
from hrnet_d2.data import DatasetError, find_data
from hrnet_d2.data.datasets.conversion import Split
from hrnet_d2.data.datasets.formats import CustomData
from hrnet_d2.data.datasets.summary import Contents, Inspection, inspect
from hrnet_d2.data.datasets.summary_page import write_page

__all__ = ["main"]

MOST_CLASSES = 20


def main(args: argparse.Namespace, prog: str) -> int:
    """Print all findings; the status is 1 if there is a problem."""
    # Warnings about the data are part of the findings below.
    setup_logger(name="hrnet_d2").setLevel(logging.ERROR)
    if len(args.data) > 2:
        raise DatasetError(
            "Give a dataset, or an annotation file and its folder of images; got "
            f"{len(args.data)} paths"
        )
    splits, found = {}, Inspection()
    like = None
    for given in (args.data, args.val_data):
        if given is None:
            continue
        try:
            data = find_data(given, like)
        except (DatasetError, OSError) as error:
            found.add("problems", "", str(error))
            continue
        print(f"{data.path}: {data.format}, {_listed(data)}")
        for warning in data.warnings:
            found.add("warnings", str(data.path), warning)
        chosen = data.splits
        if args.val_data:
            chosen = _part(data, validation=given is args.val_data)
        like = like or next(iter(chosen.values()), None)
        splits.update(chosen)
    looked = inspect(splits, masks=args.masks, read_images=not args.annotations_only)
    found.contents = looked.contents
    for kind in ("problems", "warnings"):
        for where, texts in getattr(looked, kind).items():
            getattr(found, kind).setdefault(where, []).extend(texts)
    for name, contents in found.contents.items():
        _print_contents(name or str(args.data[0]), contents)
    _print_findings("warning", found.warnings)
    _print_findings("problem", found.problems)
    if args.output:
        path = Path(args.output)
        path.mkdir(parents=True, exist_ok=True)
        write_page(path / PAGE, f"Check of {args.data[0]}", found)
        print(f"Page with plots: {path / PAGE}")
    if found.problems or (args.strict and found.warnings):
        print("Not usable as it is" if found.problems else "There are warnings (--strict)")
        return 1
    print("No error found")
    return 0


def _listed(data: CustomData) -> str:
    return ", ".join(name or "not divided" for name in data.splits)


def _part(data: CustomData, *, validation: bool) -> dict[str, Split]:
    """What training with ``--val-data`` would use of a dataset."""
    if validation:
        return {"val": data.choose("val", "test", "")}
    return {"train": data.choose("train", "")}


def _print_contents(name: str, contents: Contents) -> None:
    sizes = ", ".join(f"{count} {size}" for size, count in contents.sizes.items())
    print(
        f"\n{name}: {contents.images} images ({contents.empty} without objects), "
        f"{contents.objects} objects ({contents.segmented} with a segmentation), "
        f"{len(contents.classes)} classes\n"
        f"  by area: {sizes}; {contents.crowds} groups (crowds)"
    )
    if contents.crowded:
        file, most = contents.crowded[0]
        print(
            f"  {len(contents.crowded)} images have more than 100 objects, at most {most} ({file})"
        )
    for label, count, images in contents.classes[:MOST_CLASSES]:
        print(f"  {count:8d}  {label}  (in {images} images)")
    if len(contents.classes) > MOST_CLASSES:
        print(f"  ... and {len(contents.classes) - MOST_CLASSES} more classes")


def _print_findings(kind: str, entries: dict[str, list[str]]) -> None:
    count = sum(map(len, entries.values()))
    if not count:
        return
    print(f"\n{count} {kind}{'s' * (count != 1)}:")
    for where, texts in entries.items():
        for text in texts:
            print(f"  - {where + ': ' if where else ''}{text}")
