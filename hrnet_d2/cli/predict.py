"""``hrnet-d2 predict``: a model's detections on anything; ``demo/demo.py`` calls this."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrnet_d2.prediction.run import Summary, Task

__all__ = ["main"]

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


def main(arguments: Sequence[str], prog: str) -> int:
    """Predict; the status is 1 if an image failed, 130 or 143 if a signal stopped the run."""
    args = _parse(arguments, prog)

    from hrnet_d2 import model_zoo
    from hrnet_d2.config_file import with_weights
    from hrnet_d2.prediction.run import Task, find_units
    from hrnet_d2.prediction.shards import Shard, parse_shard
    from hrnet_d2.prediction.writers import parse_formats

    options = with_weights(args.opts, args.weights)
    default = "parquet" if args.engine == "ray" else "draw"
    task = Task(
        inputs=args.input,
        output=args.output if args.engine == "ray" else Path(args.output),
        formats=parse_formats(args.format or default),
        threshold=args.confidence_threshold,
        resume=args.resume,
        overwrite=args.overwrite,
        shard=parse_shard(args.shard) if args.shard else Shard(),
        track=args.track,
        max_frames=args.max_frames,
        progress=True,
    )
    if args.engine == "ray":
        summary = _predict_on_ray(model_zoo.load_config(args.config_file, options), task, args)
    else:
        task.units = find_units(task)  # before the model is loaded, which takes a moment
        summary = _predict(model_zoo.load_config(args.config_file, options), task, args)
    _tell(summary, task, prog)
    if summary.signal:
        return 128 + summary.signal
    return 1 if summary.failed or summary.skipped_failed else 0


def _predict(cfg: Any, task: "Task", args: argparse.Namespace) -> "Summary":
    import hrnet_d2
    from hrnet_d2.prediction import Detector
    from hrnet_d2.prediction.coco_ids import ids_of
    from hrnet_d2.prediction.pipeline import Options
    from hrnet_d2.prediction.run import predict
    from hrnet_d2.prediction.settings import category_ids, settings_of
    from hrnet_d2.prediction.tiles import TiledDetector

    predictor = hrnet_d2.Predictor(cfg)
    cfg = predictor.cfg
    names = list(predictor.metadata.get("thing_classes") or ())
    task.category_ids = category_ids(predictor.metadata)
    if args.annotations:
        task.image_ids, task.category_ids = ids_of(args.annotations, names)
    task.settings = {**settings_of(cfg), "annotations": args.annotations}
    detector = Detector(predictor, batch_size=args.batch_size)
    if args.tiles:
        detector = TiledDetector(detector, args.tiles, args.overlap, args.merge)
        task.settings["tiles"] = [args.tiles, args.overlap, args.merge]
    options = Options(
        workers=args.workers,
        streams=args.streams,
        backend=cfg.INPUT.BACKEND,
        max_pixels=cfg.INPUT.MAX_PIXELS,
    )
    return predict(detector, predictor.metadata, task, options)


def _predict_on_ray(cfg: Any, task: "Task", args: argparse.Namespace) -> "Summary":
    import time

    from hrnet_d2.checkpoint_config import apply_checkpoint_settings
    from hrnet_d2.devices import available_device
    from hrnet_d2.engine.predictor import metadata_of
    from hrnet_d2.prediction.ray_engine import Cluster, predict_on_ray
    from hrnet_d2.prediction.settings import category_ids, settings_of

    cfg = apply_checkpoint_settings(cfg)
    task.settings = settings_of(cfg)
    task.category_ids = category_ids(metadata_of(cfg))
    tiles = (args.tiles, args.overlap, args.merge) if args.tiles else None
    if tiles is not None:
        task.settings["tiles"] = list(tiles)
    cluster = Cluster(
        address=args.ray_address,
        actors=args.actors,
        cpus=args.cpus_per_actor,
        gpus=0.0 if available_device(cfg.MODEL.DEVICE) == "cpu" else 1.0,
    )
    started = time.monotonic()
    summary = predict_on_ray(cfg, task, cluster, batch_size=args.batch_size, tiles=tiles)
    summary.seconds = time.monotonic() - started
    return summary


def _tell(summary: "Summary", task: "Task", prog: str) -> None:
    done = summary.images - summary.failed
    what = "drawn" if list(task.formats) == ["draw"] else "predicted"
    words = [f"{done} of {summary.images} images {what} in {task.output}"]
    if summary.skipped:
        words.append(f"{summary.skipped} were done before")
    if failed := summary.failed + summary.skipped_failed:
        words.append(f"{failed} failed")
    rate = summary.images / max(summary.seconds, 1e-9)
    words.append(f"{summary.seconds:.1f} s, {rate:.3g} images/s")
    print(", ".join(words))
    if summary.signal:
        print(f"{prog}: interrupted; the files are complete, and --resume goes on", file=sys.stderr)


def _parse(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=DESCRIPTION,
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
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
    args = parser.parse_args(arguments)
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run and --overwrite replaces it: give one of them")
    return args


TRACKERS = ("bytetrack", "sort", "ocsort")


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
