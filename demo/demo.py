#!/usr/bin/env python
r"""Draw a model's detections on images.

    python demo/demo.py --config-file configs/faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml \
        --input a.jpg b.jpg folder/ --output drawn/ --opts MODEL.WEIGHTS checkpoint.pth
"""

import argparse
import sys
from pathlib import Path

import cv2
from detectron2.utils.visualizer import Visualizer

import hrnet_d2

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
IMAGES_AT_ONCE = 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, help="a path, or a name of the model zoo")
    parser.add_argument("--input", nargs="+", required=True, help="images, or folders of images")
    parser.add_argument("--output", required=True, help="folder for the drawn images")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="least score to draw (default 0.5)"
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs that override the config, such as MODEL.WEIGHTS checkpoint.pth",
    )
    return parser.parse_args()


def find_images(inputs: list[str]) -> list[Path]:
    """The images named, and those directly in the folders named.

    Raises:
        FileNotFoundError: where one does not exist or a folder holds no image.
    """
    found = []
    for path in map(Path, inputs):
        if path.is_dir():
            images = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not images:
                raise FileNotFoundError(f"no image in the folder {path}")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"no such image or folder: {path}")
    return found


def main() -> None:
    args = parse_args()
    paths = find_images(args.input)
    predictor = hrnet_d2.Predictor(hrnet_d2.model_zoo.load_config(args.config_file, args.opts))
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(paths), IMAGES_AT_ONCE):
        chunk = paths[start : start + IMAGES_AT_ONCE]
        images = [cv2.imread(str(path)) for path in chunk]
        for path, image in zip(chunk, images, strict=True):
            if image is None:
                raise ValueError(f"{path} is no image that OpenCV can read")
        for path, image, prediction in zip(chunk, images, predictor(images), strict=True):
            instances = prediction["instances"].to("cpu")
            instances = instances[instances.scores >= args.confidence_threshold]
            drawn = Visualizer(image[:, :, ::-1], predictor.metadata).draw_instance_predictions(
                instances
            )
            drawn.save(str(output / f"{path.stem}{path.suffix}"))
            print(f"{path}: {len(instances)} objects")
    print(f"drawn images are in {output}")


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        sys.exit(f"demo.py: {error}")
