"""What the arrays of a reference case are, as functions. Needs NumPy and OpenCV only."""

import cv2
import numpy as np

NUM_CLASSES = 80
SEMANTIC_CLASSES = 183
IGNORE = 255


def resize(image: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    """MMDetection's keep-ratio resize: (H, W, 3) uint8 within ``scale`` (long, short)."""
    height, width = image.shape[:2]
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    size = int(width * factor + 0.5), int(height * factor + 0.5)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def sample(feature: np.ndarray, step: int | None = None) -> np.ndarray:
    """The stored part of a map (1, C, H, W).

    Every (C // 8)-th channel and every ``step``-th row and column; ``step`` is min(H, W) // 8
    unless given.
    """
    if step is None:
        step = max(1, min(feature.shape[-2:]) // 8)
    return feature[0, :: max(1, feature.shape[1] // 8), ::step, ::step]


def statistics(feature: np.ndarray, largest: bool = True) -> dict:
    """Shape, mean, standard deviation and, unless ``largest`` is False, largest magnitude."""
    values = feature.astype(np.float64)
    found = {"shape": list(feature.shape), "mean": values.mean(), "std": values.std(ddof=1)}
    if largest:
        found["absmax"] = np.abs(values).max()
    return {key: value if key == "shape" else float(value) for key, value in found.items()}


def pack(masks: np.ndarray) -> np.ndarray:
    """(N, H, W) bool to (N, H, ceil(W / 8)) bits."""
    return np.packbits(masks.astype(bool), axis=-1)


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """The inverse of :func:`pack`: (N, H, ``width``) bool."""
    return np.unpackbits(packed, axis=-1)[..., :width].astype(bool)


def inscribed_ellipses(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks (N, H, W) bool for boxes XYXY at whole pixels."""
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        center, axes = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2)
        cv2.ellipse(mask, [int(c) for c in center], [int(a) for a in axes], 0, 0, 360, 1, -1)
    return masks.astype(bool)


def draw_ground_truth(size: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    """Six objects, the first one small, and a semantic map for an image of (H, W) ``size``."""
    height, width = size
    rng = np.random.default_rng([seed, 1])
    boxes = []
    for index in range(6):
        w, h = (19, 15) if index == 0 else rng.integers(24, [width // 2, height // 2])
        x, y = rng.integers(0, [width - w, height - h])
        boxes.append([x, y, x + w, y + h])
    boxes = np.asarray(boxes, np.float32)
    blocks = rng.integers(0, SEMANTIC_CLASSES, (-(-height // 32), -(-width // 32)))
    blocks[0, 0] = IGNORE
    semantic = np.kron(blocks, np.ones((32, 32), np.uint8))[:height, :width]
    return {
        "gt_boxes": boxes,
        "gt_classes": rng.integers(0, NUM_CLASSES, len(boxes)),
        "gt_masks_packed": pack(inscribed_ellipses(boxes, size)),
        "gt_semantic": semantic.astype(np.uint8),
    }
