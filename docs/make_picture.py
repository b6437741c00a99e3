#!/usr/bin/env python
"""Make README's picture: train a small detector on a CPU and draw its detections on a photograph.

    python docs/make_picture.py --output output/picture

The photograph, ``docs/images/coins.png``, shows 24 Greek coins. Only its upper half is used for
training: the 12 coins there are cut out and pasted, rotated, scaled and with other brightness, on
the background between them. A Cascade Mask R-CNN with HRNetV2p-W18 learns from these composites,
from random weights, through ``train_net.py`` and COCO files as any other data would. Its
detections on the whole photograph are drawn as they are. The lower half is new to the network.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib.colors import hsv_to_rgb

import hrnet_d2

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPH = ROOT / "docs" / "images" / "coins.png"
PICTURE = ROOT / "docs" / "images" / "detections.jpg"
CONFIG = ROOT / "configs" / "quick_start" / "cascade_mask_rcnn_hrnetv2p_w18_shapes.yaml"

SPLIT_ROW = 150  # between the second and the third row of coins
COMPOSITES, SIZE = 200, 192  # number of training images, and their sides in pixels
MAX_COINS = 6  # of a training image
ITERATIONS = 240
THRESHOLD = 0.7  # least score of a detection that is drawn
DRAWN_SCALE = 2.5  # the photograph is small

Coin = tuple[np.ndarray, np.ndarray]  # pixels and mask


def cut_out(upper: np.ndarray) -> tuple[list[Coin], np.ndarray]:
    """The coins of a grayscale image that no border cuts, and the image without them.

    A coin is brighter than the background around it; the background itself is uneven, so the
    threshold is local.
    """
    smooth = cv2.GaussianBlur(upper, (0, 0), 1.5)
    local = (cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 81, -4)
    mask = cv2.adaptiveThreshold(smooth, 1, *local)
    for operation, size in ((cv2.MORPH_CLOSE, 9), (cv2.MORPH_OPEN, 13)):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        mask = cv2.morphologyEx(mask, operation, kernel)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask)
    coins = []
    for label in range(1, count):
        x, y, width, height, area = boxes[label]
        inside = x > 0 and y > 0 and x + width < upper.shape[1] and y + height < upper.shape[0]
        if inside and area > 500:
            part = np.s_[y : y + height, x : x + width]
            coins.append((upper[part], (labels[part] == label).astype(np.uint8)))
    around = cv2.dilate(mask, np.ones((9, 9), np.uint8))
    return coins, cv2.inpaint(upper, around, 5, cv2.INPAINT_TELEA)


def turn(coin: Coin, rng: random.Random) -> Coin:
    """The coin at a random angle, size, contrast and handedness, cropped to its mask."""
    pixels, mask = coin
    if rng.random() < 0.5:
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
    height, width = mask.shape
    scale, angle = rng.uniform(0.7, 1.5), rng.uniform(0, 360)
    side = int(np.hypot(height, width) * scale) + 4
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[:, 2] += side / 2 - np.array([width / 2, height / 2])
    pixels = cv2.warpAffine(pixels.copy(), matrix, (side, side), flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(mask.copy(), matrix, (side, side), flags=cv2.INTER_NEAREST)
    x, y, width, height = cv2.boundingRect(mask)
    part = np.s_[y : y + height, x : x + width]
    pixels = pixels[part].astype(np.float32) * rng.uniform(0.7, 1.15) + rng.uniform(-10, 20)
    return pixels, mask[part]


def compose(coins: list[Coin], background: np.ndarray, rng: random.Random):
    """One training image, (SIZE, SIZE) uint8, and the masks of its coins."""
    height, width = background.shape
    side = rng.randint(90, min(height, width))
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    image = background[top : top + side, left : left + side].astype(np.float32)
    image = np.rot90(cv2.resize(image, (SIZE, SIZE)), rng.randrange(4)).copy()
    image = image * rng.uniform(0.6, 1.2) + rng.uniform(-20, 15)
    masks, occupied = [], np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(rng.randint(0, MAX_COINS)):
        pixels, mask = turn(rng.choice(coins), rng)
        height, width = mask.shape
        y, x = rng.randint(0, SIZE - height), rng.randint(0, SIZE - width)
        part = np.s_[y : y + height, x : x + width]
        if occupied[part][mask > 0].any():
            continue
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)
        image[part] = image[part] * (1 - soft) + pixels * soft
        whole = np.zeros_like(occupied)
        whole[part] = mask
        occupied |= whole
        masks.append(whole)
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, rng.uniform(1, 5), image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), masks


def write_composites(folder: Path) -> tuple[Path, Path]:
    """Write the training images and their annotations; returns the JSON and the image folder."""
    rng = random.Random(0)
    photograph = cv2.imread(str(PHOTOGRAPH), cv2.IMREAD_GRAYSCALE)
    coins, background = cut_out(photograph[:SPLIT_ROW])
    print(f"{len(coins)} coins cut out of the upper half of {PHOTOGRAPH.name}")
    pictures = folder / "train"
    pictures.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, COMPOSITES + 1):
        image, masks = compose(coins, background, rng)
        name = f"{number:04d}.png"
        cv2.imwrite(str(pictures / name), image)
        images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        for mask in masks:
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            outline = max(contours, key=len)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": list(cv2.boundingRect(mask)),
                    "area": int(mask.sum()),
                    "segmentation": [outline.reshape(-1).tolist()],
                    "iscrowd": 0,
                }
            )
    data = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "coin"}],
    }
    path = folder / "train.json"
    path.write_text(json.dumps(data))
    return path, pictures


def train(annotations: Path, images: Path, output: Path) -> None:
    """Train as a user would on own data, through ``train_net.py``."""
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(CONFIG)]
    command += ["--train-data", str(annotations), str(images), "OUTPUT_DIR", str(output)]
    command += ["SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.STEPS", f"({ITERATIONS * 4 // 5},)"]
    subprocess.run(command, check=True)


def draw(output: Path, picture: Path) -> None:
    """Draw every detection whose score is at least THRESHOLD, and the edge of the training data."""
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    cfg = hrnet_d2.model_zoo.load_config(str(output / "config.yaml"), weights)
    predictor = hrnet_d2.Predictor(cfg)
    image = cv2.imread(str(PHOTOGRAPH))
    instances = predictor(image)["instances"].to("cpu")
    instances = instances[instances.scores >= THRESHOLD]

    visualizer = Visualizer(image[:, :, ::-1], predictor.metadata, DRAWN_SCALE)
    visualizer.draw_line([0, image.shape[1]], [SPLIT_ROW] * 2, "white", "--", 0.5)
    visualizer.overlay_instances(
        masks=instances.pred_masks.numpy(),
        boxes=instances.pred_boxes,
        labels=[f"coin {score:.2f}" for score in instances.scores.tolist()],
        assigned_colors=[hsv_to_rgb((i * 0.382 % 1, 0.9, 1)) for i in range(len(instances))],
        alpha=0.4,
    )
    drawn = visualizer.output.get_image()[:, :, ::-1]
    picture.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(picture), drawn, [cv2.IMWRITE_JPEG_QUALITY, 88])

    upper = int((instances.pred_boxes.get_centers()[:, 1] < SPLIT_ROW).sum())
    print(f"{upper} coins found in the upper half, {len(instances) - upper} in the lower half")
    print(f"lowest score drawn: {instances.scores.min():.2f}")
    print(f"picture: {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/picture"))
    parser.add_argument("--picture", type=Path, default=PICTURE, help="file to write")
    parser.add_argument("--draw-only", action="store_true", help="use the trained weights")
    args = parser.parse_args()
    if not args.draw_only:
        train(*write_composites(args.output / "data"), args.output)
    draw(args.output, args.picture)


if __name__ == "__main__":
    main()
