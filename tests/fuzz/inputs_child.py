"""The process that reads mutated datasets, configs, images and results, with a canary.

    python -m tests.fuzz.inputs_child SCRATCH SEED SECONDS [TARGET ...]

Findings, one of each kind, are printed at the end with status 1: errors of another kind than the
reader says, and those that name no file. The mutated file is kept in SCRATCH/findings. What
:mod:`tests.fuzz.canary` forbids, or an execution of more than 20 s, ends the process at once.
"""

import contextlib
import faulthandler
import json
import logging
import os
import random
import resource
import sys
import tarfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from hrnet_d2 import model_zoo
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import DatasetError, find_data
from hrnet_d2.data.dataset_mapper import HRNetDatasetMapper
from hrnet_d2.data.datasets.custom import configure_custom_data
from hrnet_d2.data.image_io import (
    ImageReadError,
    SizeMismatchError,
    decode_image,
    read_image,
    read_label_map,
)
from hrnet_d2.evaluation.report.inputs import read_results, read_truth
from hrnet_d2.evaluation.report.metrics import evaluate
from hrnet_d2.export import runtime
from hrnet_d2.prediction.sources.expand import expand
from tests.data.datasets import layouts
from tests.data.datasets.test_label_studio import tasks
from tests.fuzz.canary import Canary
from tests.fuzz.mutation import Mutator
from tests.fuzz.text_mutation import TextMutator

LIMIT_S = 20
LONGEST = 5000  # characters of a message
MEMORY = 3 * 2**30
DATA_ERRORS = (DatasetError, FileNotFoundError, ImageReadError, SizeMismatchError)
IMPORTS = ("PIL", "xml", "pyexpat", "labelformat", "pycocotools", "tarfile", "bz2", "lzma", "gzip")
IMPORTS += ("yaml", "concurrent", "json", "zlib", "multiprocessing", "cv2", "tempfile", "shutil")
IMPORTS += ("email", "http", "urllib", "difflib", "hashlib", "detectron2", "tqdm", "copyreg")


@dataclass
class Target:
    """A kind of file: how sound ones are made, how they are read, and what may be said."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    errors: tuple[type[BaseException], ...]
    suffixes: tuple[str, ...]
    """Of the files to mutate; others stay sound."""


def read_coco(root: Path) -> None:
    """As training on masks does, up to the network's input."""
    cfg = model_zoo.get_config("mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (48,), 64
    configure_custom_data(cfg, (root / "train.json", root / "train"))
    (name,) = cfg.DATASETS.TRAIN
    try:
        mapper = HRNetDatasetMapper(cfg, is_train=True)
        for record in DatasetCatalog.get(name):
            mapper(record)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_coco(root: Path) -> None:
    for name, _ in layouts.SPLITS["train"]:
        layouts.write_image(root / "train" / name)
    data = layouts.coco("train")
    mask = {"size": [layouts.HEIGHT, layouts.WIDTH], "counts": [100, 20, 2952]}
    data["annotations"][0]["segmentation"] = mask
    data["annotations"][1].update(iscrowd=1, segmentation=mask)
    (root / "train.json").write_text(json.dumps(data))


def read_converted(root: Path) -> None:
    data = find_data(root)
    for path, images in data.splits.values():
        assert path.is_file() and images.is_dir()


def write_label_studio(root: Path) -> None:
    for name, _ in layouts.SPLITS["train"]:
        layouts.write_image(root / name)
    (root / "export.json").write_text(json.dumps(tasks()))


def write_results(root: Path) -> None:
    truth = layouts.coco("train")
    (root / "truth.json").write_text(json.dumps(truth))
    size = layouts.HEIGHT, layouts.WIDTH
    results = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": a["bbox"],
            "segmentation": _rle(a["segmentation"], *size),
            "score": 0.5,
        }
        for a in truth["annotations"]
    ]
    (root / "results.json").write_text(json.dumps(results))


def _rle(polygons: list, height: int, width: int) -> dict:
    found = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    return {"size": found["size"], "counts": found["counts"].decode()}


def compare(root: Path) -> None:
    truth = read_truth(root / "truth.json")
    detections = read_results(root / "results.json", truth)
    for task in detections.tasks:
        evaluate(truth, detections, task)


CONFIG = """VERSION: 2
_BASE_: "base.yaml"
MODEL:
  BACKBONE:
    FREEZE_AT: 0
  ROI_HEADS:
    NUM_CLASSES: 3
SOLVER: {BASE_LR: 0.01, STEPS: [10, 20], MAX_ITER: 30}
INPUT:
  MIN_SIZE_TRAIN: [320, 352]
DATASETS:
  CLASS_NAMES: [a, b, c]
  OWN:
  - {NAME: own, JSON: train.json, IMAGES: train}
"""


def write_config(root: Path) -> None:
    (root / "config.yaml").write_text(CONFIG)
    cfg = model_zoo.get_config("fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml")
    (root / "base.yaml").write_text(cfg.dump())


def read_config(root: Path) -> None:
    cfg = model_zoo.load_config(str(root / "config.yaml"))
    with contextlib.suppress(ConfigError):  # it names a key, which may be of either file
        check_config(cfg)


def write_images(root: Path) -> None:
    image = np.random.RandomState(0).randint(0, 256, (40, 30, 3)).astype(np.uint8)
    for suffix in ("jpg", "png", "bmp", "webp", "tif", "ppm"):
        assert cv2.imwrite(str(root / f"a.{suffix}"), image)
    assert cv2.imwrite(str(root / "map.png"), image[..., 0])


def read_images(root: Path) -> None:
    for path in root.iterdir():
        read = read_label_map if path.name == "map.png" else read_image
        try:
            read(str(path), max_pixels=10**6)
        except ImageReadError as error:
            assert str(path) in str(error), error


def write_archive(root: Path) -> None:
    images = root.parent / "archived"
    images.mkdir()
    write_images(images)
    for mode, name in (("w", "a.tar"), ("w:gz", "b.tar.gz"), ("w:xz", "c.tar.xz")):
        with tarfile.open(root / name, mode) as archive:
            archive.add(images, "images")


def read_archive(root: Path) -> None:
    for unit in expand([str(path) for path in root.iterdir()]):
        for item in unit.items(lambda source: True):
            if item.read is not None:
                try:
                    decode_image(item.read(), item.source, max_pixels=10**6)
                except ImageReadError as error:
                    assert str(root) in str(error), error


def write_export(root: Path) -> None:
    (root / "detector.onnx").write_bytes(b"graph")
    size = {"short_edge": 800, "long_edge": 1333, "size_divisibility": 32}
    settings: dict[str, Any] = {
        "format_version": runtime.FORMAT_VERSION,
        "format": "onnx",
        "graph": "detector.onnx",
        "files": {"detector.onnx": runtime.digest(root / "detector.onnx")},
        "outputs": list(runtime.OUTPUTS),
        "arithmetic": "mmdet2",
        "classes": ["dog"],
        "score_thresh": 0.05,
        "input": {"format": "BGR", "resize": "opencv", **size},
    }
    (root / runtime.SETTINGS).write_text(json.dumps(settings))


def read_export(root: Path) -> None:
    settings = runtime._read_settings(root)
    for file, expected in settings["files"].items():
        runtime._check_file(root, file, expected)


TARGETS = {
    "coco": Target(write_coco, read_coco, DATA_ERRORS, (".json",)),
    "coco_folder": Target(layouts.write_coco, read_converted, DATA_ERRORS, (".json",)),
    "roboflow": Target(layouts.write_roboflow, read_converted, DATA_ERRORS, (".json",)),
    "yolo": Target(layouts.write_yolo, read_converted, DATA_ERRORS, (".yaml", ".txt")),
    "yolo_polygons": Target(
        lambda root: layouts.write_yolo(root, polygons=True),
        read_converted,
        DATA_ERRORS,
        (".yaml", ".txt", ".png"),
    ),
    "voc": Target(layouts.write_voc, read_converted, DATA_ERRORS, (".xml", ".txt")),
    "devkit": Target(layouts.write_devkit, read_converted, DATA_ERRORS, (".xml", ".txt")),
    "cvat": Target(layouts.write_cvat, read_converted, DATA_ERRORS, (".xml",)),
    "label_studio": Target(write_label_studio, read_converted, DATA_ERRORS, (".json",)),
    "config": Target(write_config, read_config, (ConfigError, FileNotFoundError), (".yaml",)),
    "images": Target(
        write_images, read_images, (), (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm")
    ),
    "results": Target(write_results, compare, (DatasetError,), (".json",)),
    "archives": Target(write_archive, read_archive, (ConfigError,), (".tar", ".gz", ".xz")),
    "export": Target(write_export, read_export, (ValueError, FileNotFoundError), (".json",)),
}


class Inputs:
    """Sound files of every target, of which one at a time is mutated and read."""

    def __init__(self, scratch: Path, names: list[str], chance: random.Random):
        self.scratch = scratch
        self.chance = chance
        self.text = TextMutator(chance)
        self.victims: dict[str, list[tuple[Path, bytes]]] = {}
        self.counts: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        for name in names:
            root, target = scratch / name, TARGETS[name]
            root.mkdir()
            target.write(root)
            files = sorted(p for p in root.rglob("*") if p.suffix in target.suffixes)
            assert files, name
            self.victims[name] = [(path, path.read_bytes()) for path in files]
            target.read(root)  # what is sound can be read

    def run(self, canary: Canary) -> None:
        name = self.chance.choice(list(self.victims))
        root, target = self.scratch / name, TARGETS[name]
        path, sound = self.chance.choice(self.victims[name])
        binary = not _is_text(path)
        mutated, kind = _mutate_bytes(sound, self.chance) if binary else self.text(sound)
        path.write_bytes(mutated)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        canary.armed = True
        try:
            target.read(root)
            self.counts[f"{name} read"] += 1
        except target.errors as error:
            self.counts[f"{name} refused"] += 1
            canary.armed = False
            if str(root) not in str(error):
                self.find(error, "no file is named", path, kind)
            elif len(str(error)) > LONGEST:
                self.find(error, f"{len(str(error))} characters", path, kind)
        except BaseException as error:
            canary.armed = False
            self.find(error, "another kind of error", path, kind)
        canary.armed = False
        faulthandler.cancel_dump_traceback_later()
        path.write_bytes(sound)

    def find(self, error: BaseException, what: str, path: Path, kind: str) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{what}: {type(error).__name__} of {last.name}"
        if place in self.findings:
            return
        kept = self.scratch / "findings" / f"{len(self.findings)}_{path.name}"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(path.read_bytes())
        account = "".join(traceback.format_exception(error))[-1500:]
        self.findings[place] = f"{place}: {path} ({kind}, kept as {kept})\n{account}"


def _is_text(path: Path) -> bool:
    return path.suffix in (".json", ".yaml", ".txt", ".xml")


def _mutate_bytes(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    mutator = Mutator({"file": data}, chance)
    kind = chance.choice(
        (mutator.flip, mutator.number, mutator.cut, mutator.splice, mutator.repeat)
    )
    return kind(data), kind.__name__


def main() -> None:
    scratch, seed, seconds, *names = sys.argv[1:]
    os.environ["HRNET_D2_CACHE"] = f"{scratch}/cache"
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    inputs = Inputs(Path(scratch), names or list(TARGETS), random.Random(int(seed)))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    canary = Canary(scratch, cache=True, imports=IMPORTS)
    sys.addaudithook(canary)
    end = time.monotonic() + float(seconds)
    executions = 0
    while time.monotonic() < end:
        inputs.run(canary)
        executions += 1
    for account in inputs.findings.values():
        print("FINDING", account, file=sys.stderr)
    print(executions, dict(sorted(inputs.counts.items())), dict(inputs.text.used))
    sys.exit(bool(inputs.findings))


if __name__ == "__main__":
    main()
