"""Arguments of ``hrnet-d2 check``."""

import argparse

__all__ = ["PAGE", "parser"]

PAGE = "check.html"


def parser(prog: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog=prog,
        description="Check the annotations and images of custom data, and summarize them. The "
        "exit status is 1 if there is a problem.",
    )
    found.add_argument(
        "data",
        metavar="DATA",
        nargs="+",
        help="the folder or description of a dataset (COCO, YOLO, Pascal VOC, CVAT, Label Studio), "
        "or a COCO file and the folder of its images",
    )
    found.add_argument(
        "--val-data",
        nargs="+",
        metavar=("DATA", "IMAGES"),
        help="validation data, whose categories must be the same",
    )
    found.add_argument(
        "--masks", action="store_true", help="for a model of masks: bad segmentations are errors"
    )
    found.add_argument("--output", metavar="FOLDER", help=f"write {PAGE} with plots there")
    found.add_argument(
        "--annotations-only",
        action="store_true",
        help="do not read the image files: damage, sizes and copies are not found",
    )
    found.add_argument("--strict", action="store_true", help="warnings count as problems")
    return found
