"""``hrnet-d2 predict``: draw a model's detections on images; ``demo/demo.py`` calls this."""

import argparse
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer

import hrnet_d2
from hrnet_d2.config_file import ConfigError, with_weights
from hrnet_d2.data import ImageReadError, read_image
from hrnet_d2.file_io import atomic_write

__all__ = ["main"]

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass
class _Job:
    """An image and where its drawing goes."""

    source: Path
    target: Path


def main(args: argparse.Namespace, prog: str) -> int:
    """Draw the detections; the status is 1 if an image could not be read or written."""
    options = with_weights(args.opts, args.weights)
    jobs = _plan(args.input, Path(args.output))
    cfg = hrnet_d2.model_zoo.load_config(args.config_file, options)
    predictor = hrnet_d2.Predictor(cfg)
    failed = 0
    waiting: deque[tuple[_Job, np.ndarray]] = deque()

    def images() -> Iterator[np.ndarray]:
        nonlocal failed
        for job in jobs:
            try:
                image = read_image(str(job.source))
            except (ImageReadError, FileNotFoundError) as error:
                failed += 1
                print(f"{prog}: {error}", file=sys.stderr, flush=True)
                continue
            waiting.append((job, image))
            yield image

    for output in predictor(images()):
        job, image = waiting.popleft()
        instances = output["instances"].to("cpu")
        instances = instances[instances.scores >= args.confidence_threshold]
        _draw(image, instances, predictor.metadata, job.target)
        print(f"{job.source}: {len(instances)} objects, {job.target}", flush=True)
    print(f"{len(jobs) - failed} of {len(jobs)} images drawn in {args.output}")
    return 1 if failed else 0


def _plan(inputs: Sequence[str], output: Path) -> list[_Job]:
    """Where each drawing goes: no input is overwritten, and no drawing by another.

    Raises:
        FileNotFoundError: if an input does not exist or a folder has no image.
        ConfigError: if the output is a file, or a drawing would replace an input.
    """
    sources = _find_images(inputs)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file: give a folder, which may be a new one")
    names = _names(sources)
    taken = {os.path.realpath(source) for source in sources}
    jobs = [_Job(s, output / name) for s, name in zip(sources, names, strict=True)]
    for job in jobs:
        if os.path.realpath(job.target) in taken:
            raise ConfigError(
                f"The drawing of {job.source} would replace the input {job.target}: give another "
                "folder as --output"
            )
    for folder in {job.target.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    return jobs


def _find_images(inputs: Sequence[str]) -> list[Path]:
    """The images named, and those directly in the folders named, each once."""
    found: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            images = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not images:
                raise FileNotFoundError(f"There is no image in the folder {path}")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"There is no image or folder {path}")
    return list({os.path.realpath(path): path for path in reversed(found)}.values())[::-1]


def _names(sources: Sequence[Path]) -> list[Path]:
    """A file name for each image; those of equal names keep the folders that tell them apart."""
    # Without regard to case, as some file systems compare names.
    groups: dict[str, list[int]] = {}
    names = [_drawn_name(source) for source in sources]
    for i, name in enumerate(names):
        groups.setdefault(name.lower(), []).append(i)
    result = [Path(name) for name in names]
    for same in groups.values():
        if len(same) == 1:
            continue
        folders = [sources[i].resolve().parent for i in same]
        shared = Path(os.path.commonpath(folders))
        for i, folder in zip(same, folders, strict=True):
            result[i] = folder.relative_to(shared) / names[i]
    seen: set[str] = set()
    for i, path in enumerate(result):
        number = 2
        while str(result[i]).lower() in seen:
            result[i] = path.with_stem(f"{path.stem}_{number}")
            number += 1
        seen.add(str(result[i]).lower())
    return result


def _drawn_name(source: Path) -> str:
    """The image's own name; a suffix that OpenCV may not write gets .png on top."""
    return source.name if source.suffix.lower() in SUFFIXES else f"{source.name}.png"


def _draw(image: np.ndarray, instances: Instances, metadata: Metadata, target: Path) -> None:
    drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(instances)
    pixels = np.ascontiguousarray(drawn.get_image()[:, :, ::-1])
    written, data = cv2.imencode(target.suffix, pixels)
    if not written:
        raise OSError(f"OpenCV cannot write {target}")
    with atomic_write(target) as part:
        Path(part).write_bytes(data.tobytes())
