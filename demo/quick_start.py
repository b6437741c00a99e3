#!/usr/bin/env python
"""Train a small detector on the built-in data, evaluate it, draw its detections, and report.

python demo/quick_start.py --output output/demo
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.utils.visualizer import Visualizer

import hrnet_d2

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quick_start" / "faster_rcnn_hrnetv2p_w18_shapes.yaml"
SCALE = 2  # of the drawn images: the built-in ones are small


def train(output: Path) -> None:
    """Train and evaluate as a user would, through train_net.py."""
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(CONFIG)]
    command += ["--overwrite", "--report", "OUTPUT_DIR", str(output)]
    subprocess.run(command, check=True)


def draw(output: Path, number: int = 12, threshold: float = 0.7) -> Path:
    """Draw ``number`` val images, ground truth on the left, detections on the right."""
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    cfg = hrnet_d2.model_zoo.load_config(str(output / "config.yaml"), weights)
    predictor = hrnet_d2.Predictor(cfg)
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    records = random.Random(0).sample(records, min(number, len(records)))
    images = [cv2.imread(record["file_name"]) for record in records]
    folder = output / "pictures"
    folder.mkdir(exist_ok=True)
    for record, image, prediction in zip(records, images, predictor(images), strict=True):
        # The data have semantic maps too, which this detector did not learn.
        record = {key: value for key, value in record.items() if not key.startswith("sem_seg")}
        instances = prediction["instances"].to("cpu")
        instances = instances[instances.scores >= threshold]
        sides = [
            Visualizer(image[:, :, ::-1], predictor.metadata, SCALE).draw_dataset_dict(record),
            Visualizer(image[:, :, ::-1], predictor.metadata, SCALE).draw_instance_predictions(
                instances
            ),
        ]
        pair = np.concatenate([side.get_image()[:, :, ::-1] for side in sides], axis=1)
        cv2.imwrite(str(folder / Path(record["file_name"]).with_suffix(".png").name), pair)
    return folder


def last_metrics(output: Path) -> dict[str, float]:
    """The metrics of the last evaluation, from Detectron2's log of metrics."""
    lines = (output / "metrics.json").read_text().splitlines()
    evaluated = [metrics for metrics in map(json.loads, lines) if "bbox/AP" in metrics]
    return {k: v for k, v in evaluated[-1].items() if k.startswith("bbox/")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    output = parser.parse_args().output
    train(output)
    pictures = draw(output)
    print("\nBox AP on the built-in validation images:")
    for name, value in last_metrics(output).items():
        print(f"  {name.removeprefix('bbox/'):<14}{value:6.1f}")
    print(f"Truth (left) and detections (right): {pictures}")
    report = next((output / "inference").glob("*/report.html"))
    print(f"What it gets right and wrong, to open in a browser: {report}")


if __name__ == "__main__":
    main()
