"""``hrnet-d2 predict``: a model's detections on anything; ``demo/demo.py`` calls this."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrnet_d2.prediction.task import Summary, Task

__all__ = ["main"]


def main(args: argparse.Namespace, prog: str) -> int:
    """Predict; the status is 1 if an image failed, 130 or 143 if a signal stopped the run."""
    from hrnet_d2 import model_zoo
    from hrnet_d2.config_file import with_weights
    from hrnet_d2.prediction.shards import Shard, parse_shard
    from hrnet_d2.prediction.task import Task, find_units
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
    from hrnet_d2.data.categories import category_ids
    from hrnet_d2.prediction import Detector
    from hrnet_d2.prediction.coco_ids import ids_of
    from hrnet_d2.prediction.options import Options
    from hrnet_d2.prediction.run import predict
    from hrnet_d2.prediction.settings import settings_of
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
    from hrnet_d2.data.categories import category_ids
    from hrnet_d2.devices import available_device
    from hrnet_d2.engine.predictor import metadata_of
    from hrnet_d2.prediction.ray_engine import Cluster, predict_on_ray
    from hrnet_d2.prediction.settings import settings_of

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
