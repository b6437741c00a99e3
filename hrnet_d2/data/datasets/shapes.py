"""Built-in data: ``shapes_train`` and ``shapes_val``, images of shapes that are drawn on demand.

COCO format on disk: PNG images, boxes, polygons and areas in JSON, and semantic maps.  Four classes
of objects, each in shades of one color so that minutes of training on a CPU are enough to learn
them, at several sizes and angles, on backgrounds of gradients, noise, stripes and checks. Objects
may overlap in part; polygons and boxes are those of the whole object, occluded parts included.
Some images have no object.

Drawing uses integers and a random generator whose stream is fixed across NumPy versions, so that
the pixels are the same on every machine.
"""

import colorsys
import json
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from hrnet_d2.data.cache import cache_folder, write_once
from hrnet_d2.data.masks import rasterize

__all__ = ["SEMANTIC_CLASSES", "THING_CLASSES", "register_shapes", "write_shapes"]

THING_CLASSES = ["circle", "square", "triangle", "star"]
BACKGROUNDS = ["gradient", "noise", "stripes", "checks"]
# Labels of the semantic maps: things, then backgrounds; IGNORED is neither.
SEMANTIC_CLASSES = THING_CLASSES + BACKGROUNDS
IGNORED = 255

# Part of the folder's name: increment it whenever the images or annotations change.
VERSION = 1
# Number of images and seed.
SPLITS = {"train": (320, 2020), "val": (80, 1908)}

SIZES = ((128, 128), (160, 128), (128, 160), (144, 112), (112, 144))  # width, height
RADII = (11, 32)  # of objects, in pixels
MAX_OBJECTS = 5
MAX_COVERED = 0.4  # of an object by another
EMPTY_EVERY = 40  # one in 40 images has no object
# Hues of the classes, in degrees, and the largest deviation of an object's.
HUES, HUE_JITTER = (0, 60, 130, 230), 16
# For drawings, RGB: of the things by their hues, then of the backgrounds.
THING_COLORS = [[220, 40, 40], [220, 220, 40], [40, 220, 70], [40, 70, 220]]
STUFF_COLORS = [*THING_COLORS, [200, 180, 160], [160, 160, 160], [170, 190, 200], [190, 170, 200]]


def register_shapes() -> None:
    """Register both datasets, unless they are registered already.

    Reads and writes no file: the images are drawn when a dataset is first loaded, into what the
    cache folder is at this call (environment variable HRNET_D2_CACHE).
    """
    root = cache_folder() / f"shapes_v{VERSION}"
    for split in SPLITS:
        name = f"shapes_{split}"
        if name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(name, lambda r=root, s=split, n=name: _load(r, s, n))
        MetadataCatalog.get(name).set(
            json_file=str(root / f"{split}.json"),
            image_root=str(root / split),
            sem_seg_root=str(root / f"{split}_semantic"),
            ignore_label=IGNORED,
            drawn_on_demand=True,
            evaluator_type="coco",
            thing_classes=THING_CLASSES,
            thing_colors=THING_COLORS,
            stuff_classes=SEMANTIC_CLASSES,
            stuff_colors=STUFF_COLORS,
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(THING_CLASSES))},
        )


def write_shapes(folder: Path) -> None:
    """Draw the dataset into ``folder``, which is created.

    The result is ``SPLIT.json``, ``SPLIT/NAME.png`` and ``SPLIT_semantic/NAME.png`` for the splits
    "train" and "val".
    """
    for split, (count, seed) in SPLITS.items():
        (folder / split).mkdir(parents=True)
        (folder / f"{split}_semantic").mkdir()
        images: list[dict] = []
        annotations: list[dict] = []
        for index in range(count):
            image, semantic, objects = draw(seed, index)
            name = f"{index:04d}.png"
            _write_png(folder / split / name, image)
            _write_png(folder / f"{split}_semantic" / name, semantic)
            height, width = semantic.shape
            images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
            annotations += [
                {"id": len(annotations) + i + 1, "image_id": index + 1, **annotation}
                for i, annotation in enumerate(objects)
            ]
        data = {
            "info": {"description": f"hrnet_d2 shapes, {split}, version {VERSION}"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(THING_CLASSES)],
        }
        (folder / f"{split}.json").write_text(json.dumps(data), "utf-8")


def draw(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Draw one image.

    Returns:
        The image, (H, W, 3) uint8 BGR; the semantic map, (H, W) uint8; COCO annotations without
        ids, from the rearmost object to the foremost.
    """
    rng = np.random.RandomState([seed, index])
    width, height = SIZES[rng.randint(len(SIZES))]
    image, semantic = _background(rng, height, width)

    front = np.zeros((height, width), dtype=np.uint8)  # number of the visible object, from 1
    masks: list[np.ndarray] = []
    annotations: list[dict] = []
    wanted = 0 if index % EMPTY_EVERY == EMPTY_EVERY - 1 else rng.randint(1, MAX_OBJECTS + 1)
    for _ in range(wanted):
        kind = rng.randint(len(THING_CLASSES))
        polygon = _place(rng, kind, height, width)
        mask = rasterize([polygon], height, width).astype(bool)
        # Every object, those behind included, stays mostly visible.
        seen = [(front == i + 1) & ~mask for i in range(len(masks))]
        if any(s.sum() < (1 - MAX_COVERED) * m.sum() for s, m in zip(seen, masks, strict=True)):
            continue
        masks.append(mask)
        front[mask] = len(masks)
        image[mask] = _color(rng, kind)
        semantic[mask] = kind
        annotations.append(_annotation(kind, polygon, mask))

    noise = rng.randint(-10, 11, size=image.shape)
    image = np.clip(image.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    semantic[_contours(front)] = IGNORED
    if rng.randint(4) == 0:  # an unlabeled corner
        semantic[: height // 5, : width // 5] = IGNORED
    return image, semantic, annotations


def _load(root: Path, split: str, name: str) -> list[dict]:
    write_once(root, write_shapes)
    records = load_coco_json(str(root / f"{split}.json"), str(root / split), name)
    for record in records:
        maps = root / f"{split}_semantic"
        record["sem_seg_file_name"] = str(maps / Path(record["file_name"]).name)
    return records


def _write_png(path: Path, image: np.ndarray) -> None:
    """Through memory, because ``cv2.imwrite`` gives no reason when it fails."""
    _, data = cv2.imencode(".png", image)
    path.write_bytes(data.tobytes())


def _background(
    rng: np.random.RandomState, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """An image of two parts, side by side or one above the other, and their semantic map."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    semantic = np.empty((height, width), dtype=np.uint8)
    parts: tuple[tuple[slice, slice], ...]
    if rng.randint(2):
        cut = rng.randint(width // 4, 3 * width // 4)
        parts = np.s_[:, :cut], np.s_[:, cut:]
    else:
        cut = rng.randint(height // 4, 3 * height // 4)
        parts = np.s_[:cut, :], np.s_[cut:, :]
    for part, kind in zip(parts, rng.permutation(len(BACKGROUNDS)), strict=False):
        image[part] = _texture(rng, BACKGROUNDS[kind], *semantic[part].shape)
        semantic[part] = len(THING_CLASSES) + kind
    return image, semantic


def _texture(rng: np.random.RandomState, kind: str, height: int, width: int) -> np.ndarray:
    """(height, width, 3), in pale or dark tones of low saturation, unlike the objects."""
    one, other = rng.randint(60, 200) + rng.randint(-15, 16, size=(2, 3))
    other = other + rng.choice([-35, 35])
    y, x = np.mgrid[:height, :width]
    if kind == "gradient":
        along, last = (x, width - 1) if rng.randint(2) else (y, height - 1)
        share = along * 256 // max(last, 1)
    elif kind == "noise":
        share = rng.randint(0, 257, size=(height, width))
    elif kind == "stripes":
        period = rng.randint(6, 15)
        share = (x + y * rng.randint(-1, 2)) // (period // 2) % 2 * 256
    else:
        cell = rng.randint(5, 13)
        share = (x // cell + y // cell) % 2 * 256
    share = share[..., None]
    return np.clip((one * (256 - share) + other * share) // 256, 0, 255)


def _place(rng: np.random.RandomState, kind: int, height: int, width: int) -> list[float]:
    """The polygon of an object inside the image: x, y, x, y, ... rounded to 0.01 pixels."""
    radius = rng.randint(RADII[0], RADII[1] + 1)
    x = rng.randint(radius, width - radius + 1)
    y = rng.randint(radius, height - radius + 1)
    corners, inner = {"circle": (32, 1.0), "square": (4, 1.0), "triangle": (3, 1.0)}.get(
        THING_CLASSES[kind], (10, 0.45)
    )
    angles = np.deg2rad(rng.randint(360) + np.arange(corners) * 360.0 / corners)
    radii = radius * np.where(np.arange(corners) % 2, inner, 1.0)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return np.round(points, 2).reshape(-1).tolist()


def _color(rng: np.random.RandomState, kind: int) -> np.ndarray:
    """The color of an object, BGR."""
    hue = (HUES[kind] + rng.randint(-HUE_JITTER, HUE_JITTER + 1)) % 360
    saturation, value = rng.randint(150, 256, size=2) / 255
    rgb = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    return np.array([int(channel * 255 + 0.5) for channel in reversed(rgb)], dtype=np.uint8)


def _annotation(kind: int, polygon: list[float], mask: np.ndarray) -> dict:
    x1, y1 = min(polygon[::2]), min(polygon[1::2])
    x2, y2 = max(polygon[::2]), max(polygon[1::2])
    return {
        "category_id": kind + 1,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "area": int(mask.sum()),
        "segmentation": [polygon],
        "iscrowd": 0,
    }


def _contours(front: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbor belongs to something else."""
    edge = np.zeros(front.shape, dtype=bool)
    edge[:, :-1] |= front[:, :-1] != front[:, 1:]
    edge[:-1] |= front[:-1] != front[1:]
    return edge
