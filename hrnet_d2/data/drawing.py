"""Pictures of what the network is trained on: images after augmentation, with their targets."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils import comm
from detectron2.utils.colormap import colormap

from hrnet_d2.file_io import atomic_write

from .resumable import DataStream, stream_of

__all__ = [
    "FIRST_BATCH",
    "batch_picture",
    "class_names_of",
    "draw_input",
    "first_batch_drawn",
    "write_picture",
]

logger = logging.getLogger(__name__)

FIRST_BATCH = "first_batch.jpg"
MOST_DRAWN = 16  # images of a batch
WIDEST = 800  # pixels of an image in the picture of a batch
GAP = 8
UNDERLAY = 0.5  # weight of the image below its semantic map


def draw_input(
    record: dict[str, Any], image_format: str, class_names: Sequence[str] = (), ignore: int = 255
) -> np.ndarray:
    """Draw one input of the network: boxes, masks and class names; the semantic map beside it.

    Args:
        record: an element of a training batch.
        image_format: channel order of "image", INPUT.FORMAT.
        class_names: names of the classes; numbers are drawn if there are none.
        ignore: label of the semantic map that is not drawn.

    Returns:
        (H, W, 3) uint8 RGB, twice as wide with a semantic map.
    """
    image = record["image"].permute(1, 2, 0).numpy()
    image = np.ascontiguousarray(convert_image_to_rgb(image, image_format))
    pictures = [image]
    instances = record.get("instances")
    if instances is not None and len(instances):
        from detectron2.utils.visualizer import Visualizer  # and matplotlib, which takes a moment

        classes = instances.gt_classes.tolist()
        labels = [class_names[c] if c < len(class_names) else str(c) for c in classes]
        visualizer = Visualizer(image)
        masks = instances.gt_masks if instances.has("gt_masks") else None
        if masks is not None:
            masks = masks.polygons if hasattr(masks, "polygons") else masks.tensor.numpy()
        colors = colormap(rgb=True, maximum=1)
        drawn = visualizer.overlay_instances(
            boxes=instances.gt_boxes.tensor.numpy(),
            masks=masks,
            labels=labels,
            # Given, since the visualizer would take them from NumPy's random numbers.
            assigned_colors=[colors[c % len(colors)] for c in classes],
        )
        pictures = [drawn.get_image()[: image.shape[0], : image.shape[1]]]
    if "sem_seg" in record:
        pictures.append(_draw_map(image, record["sem_seg"].numpy(), ignore))
    return np.concatenate(pictures, axis=1)


def _draw_map(image: np.ndarray, labels: np.ndarray, ignore: int) -> np.ndarray:
    colors = colormap(rgb=True, maximum=255)
    painted = colors[labels % len(colors)]
    mixed = UNDERLAY * image + (1 - UNDERLAY) * painted
    return np.where((labels == ignore)[..., None], image, mixed).astype(np.uint8)


def batch_picture(
    batch: Sequence[dict[str, Any]],
    image_format: str,
    class_names: Sequence[str] = (),
    ignore: int = 255,
) -> np.ndarray:
    """Draw a batch as one picture, image by image in rows.

    Args:
        batch: of a training loader; at most 16 images are drawn.
        image_format, class_names, ignore: see :func:`draw_input`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    pictures = []
    for record in batch[:MOST_DRAWN]:
        picture = draw_input(record, image_format, class_names, ignore)
        scale = min(1.0, WIDEST / max(picture.shape[:2]))
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pictures.append(picture)
    columns = int(np.ceil(np.sqrt(len(pictures))))
    height = max(p.shape[0] for p in pictures) + GAP
    width = max(p.shape[1] for p in pictures) + GAP
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas


def class_names_of(cfg: CfgNode) -> list[str]:
    """Names of the classes of the training data; none if they are not known."""
    for name in cfg.DATASETS.TRAIN:
        if MetadataCatalog.get(name).get("thing_classes"):
            return list(MetadataCatalog.get(name).thing_classes)
    return list(cfg.DATASETS.CLASS_NAMES)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a JPEG or PNG, complete or not at all.

    Args:
        path: the file.
        picture: (H, W, 3) uint8 RGB.

    Raises:
        OSError: if it cannot be written.
    """
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic_write(path) as part:
        Path(part).write_bytes(data.tobytes())


def first_batch_drawn(cfg: CfgNode, loader: Iterable[list[dict]]) -> Iterable[list[dict]]:
    """The same loader; the first batch that it gives is also drawn into the output folder.

    ``VIS_FIRST_BATCH`` says whether: "auto" draws that of custom data. A picture that is there
    already stays. Only the main process draws.
    """
    custom = any(MetadataCatalog.get(name).get("custom_data") for name in cfg.DATASETS.TRAIN)
    wanted = cfg.VIS_FIRST_BATCH == "on" or (cfg.VIS_FIRST_BATCH == "auto" and custom)
    path = Path(cfg.OUTPUT_DIR, FIRST_BATCH)
    if not wanted or not comm.is_main_process() or path.exists():
        return loader
    return _DrawingLoader(cfg, loader, path)


class _DrawingLoader:
    def __init__(self, cfg: CfgNode, loader: Iterable[list[dict]], path: Path):
        self.cfg = cfg
        self.loader = loader
        self.path = path

    @property
    def stream(self) -> DataStream | None:
        return stream_of(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        batches = iter(self.loader)
        for batch in batches:
            try:
                self._draw(batch)
            except Exception as error:  # a picture is not worth a training
                logger.warning("The first batch could not be drawn: %s", error)
            yield batch
            break
        yield from batches

    def _draw(self, batch: list[dict]) -> None:
        cfg = self.cfg
        ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        picture = batch_picture(batch, cfg.INPUT.FORMAT, class_names_of(cfg), ignore)
        write_picture(self.path, picture)
        logger.info("The first batch, as the network sees it: %s", self.path)
