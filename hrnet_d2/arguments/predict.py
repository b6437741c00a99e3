"""Arguments of ``hrnet-d2 predict``."""

import argparse
from typing import Any

__all__ = ["parser"]

DESCRIPTION = """
Predict on images, folders (and what is in them), patterns, text files of paths, videos, cameras
(camera:0), tar archives, and URLs of these. The results are written as they are made; an image that
cannot be read is reported, and the others go on. The exit status is 1 if any failed.
"""
FORMATS = """
formats:
  draw     pictures and videos with masks, boxes and labels (the default)
  coco     predictions.json, COCO's results, and images.json, which its ids refer to
  jsonl    predictions.jsonl, a JSON object for each image
  csv      predictions.csv, a row for each detection
  parquet  predictions.parquet/, a row for each image (needs pyarrow)
  yolo     labels/NAME.txt and data.yaml
  labelme  labelme/NAME.json, to correct by hand
  cvat     annotations.xml, to correct by hand in CVAT
"""
TRACKERS = ("bytetrack", "sort", "ocsort")


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        found = super().parse_args(*args, **kwargs)
        if found.resume and found.overwrite:
            self.error("--resume goes on with a run and --overwrite replaces it: give one of them")
        return found


def parser(prog: str) -> argparse.ArgumentParser:
    found = _Parser(
        prog=prog,
        description=DESCRIPTION,
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add(
        "--config-file",
        default="",
        help="a path, or a name of the model zoo; default: the config that the checkpoint brings",
    )
    add("--weights", help="short for --opts MODEL.WEIGHTS")
    add("--input", nargs="+", required=True, help="images, folders, videos, ... (see above)")
    add("--output", required=True, help="folder for the results")
    add("--format", help="one or several, such as draw,coco (see below; default draw)")
    add(
        "--confidence-threshold",
        type=_fraction,
        help="least score (default 0.5 for draw, yolo, labelme and cvat; all for the others)",
    )
    add("--resume", action="store_true", help="go on with a run that was stopped or killed")
    add("--overwrite", action="store_true", help="replace the results of an earlier run")
    add(
        "--tiles",
        type=_positive,
        metavar="PIXELS",
        help="predict on tiles of images larger than it",
    )
    add(
        "--overlap",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="of a tile with the next (default 0.2)",
    )
    add(
        "--merge",
        choices=("nms", "nmm"),
        default="nms",
        help="of detections of several tiles keep the best, or the box around them (default nms)",
    )
    add("--track", nargs="?", const="bytetrack", choices=TRACKERS, help="number objects in videos")
    add("--max-frames", type=_count, default=0, metavar="N", help="of each video and camera")
    add("--shard", metavar="I/N", help="predict on the Ith of N parts of the inputs")
    add(
        "--annotations",
        metavar="JSON",
        help="COCO file whose ids of images and categories the format coco uses",
    )
    add("--batch-size", type=_positive, metavar="N", help="images at once (default: by their size)")
    add(
        "--streams",
        type=_positive,
        metavar="N",
        help="threads that run the network (default: on a CPU one for each core, up to 8)",
    )
    add(
        "--workers",
        type=_positive,
        default=4,
        metavar="N",
        help="threads that read and decode, and as many that draw and write (default 4)",
    )
    add(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on a cluster, from images or Parquet files of paths or bytes, to Parquet",
    )
    add("--ray-address", metavar="ADDRESS", help="of the cluster (default: RAY_ADDRESS, or here)")
    add(
        "--actors",
        type=_actors,
        default=(1, 1),
        metavar="N",
        help="of the engine ray: copies of the model, such as 8, or 2-8 to scale (default 1)",
    )
    add(
        "--cpus-per-actor",
        type=_positive,
        default=1,
        metavar="N",
        help="threads of each of them (default 1)",
    )
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs that override the config, such as MODEL.WEIGHTS checkpoint.pth",
    )
    return found


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no score: give a number from 0 to 1")
    return value


def _actors(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text} is no number of actors: give 4, or 2-8")
    return found


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of frames")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value
