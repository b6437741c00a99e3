"""Small models, and what tests predict on."""

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model

from hrnet_d2 import model_zoo
from hrnet_d2.cli import main
from tests.engine.tiny import CONFIGS, TINY, tiny_config

MASKS = str(CONFIGS / "quick_start" / "cascade_mask_rcnn_hrnetv2p_w18_shapes.yaml")


def write_model(folder: Path, *overrides: str) -> Path:
    """A model with random weights and the classes of the built-in data: the checkpoint's path."""
    cfg = tiny_config(folder, "TEST.DETECTIONS_PER_IMAGE", "5", *overrides)
    cfg.DATASETS.CLASS_NAMES = ["circle", "square", "triangle", "star"]
    return write(cfg, folder)


def write_mask_model(folder: Path) -> Path:
    """The same for a model with masks."""
    cfg = model_zoo.load_config(
        MASKS, [*TINY, "OUTPUT_DIR", str(folder), "TEST.DETECTIONS_PER_IMAGE", "5"]
    )
    cfg.defrost()
    cfg.DATASETS.CLASS_NAMES = ["circle", "square", "triangle", "star"]
    return write(cfg, folder)


def write(cfg, folder: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    return folder / "model.pth"


def predict(weights: Path, *inputs, output, extra=()) -> int:
    """``hrnet-d2 predict`` in this process; the status."""
    words = ["predict", "--config-file", str(weights.parent / "config.yaml")]
    words += ["--weights", str(weights), "--output", str(output), *map(str, extra)]
    return main([*words, "--input", *map(str, inputs)])


def picture(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(seed: int, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, picture(seed))[1].tobytes()


def write_pictures(folder: Path, *names: str) -> list[Path]:
    """Pictures, each another."""
    paths = []
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, path.suffix))
        paths.append(path)
    return paths


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_video(path: Path, frames: int = 6, size=(64, 48)) -> Path:
    """A disk that moves to the right."""
    fourcc = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), fourcc, 10, size)
    for i in range(frames):
        image = np.full((size[1], size[0], 3), 90, np.uint8)
        cv2.circle(image, (12 + 4 * i, 24), 9, (40, 40, 220), -1)
        writer.write(image)
    writer.release()
    return path


def rows(output: Path, suffix: str = "") -> list[dict]:
    """Of ``predictions.jsonl``."""
    text = (output / f"predictions{suffix}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
