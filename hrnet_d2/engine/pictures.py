"""Pictures of validation images for TensorBoard and trackers: the truth beside the predictions."""

import logging
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from detectron2.utils.visualizer import Visualizer
from torch import nn

from hrnet_d2.data import InferenceInput, read_image

__all__ = ["ValidationPictures"]

logger = logging.getLogger(__name__)

LEAST_SCORE = 0.3
LARGEST_SIDE = 640  # of half a picture, in pixels


class ValidationPictures:
    """Draws the first images of the first validation data that have objects."""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: the full config; ``TEST.PICTURES`` is the number of images.
        """
        self.cfg = cfg
        self._records: list[dict] | None = None

    def put(self, storage: EventStorage, model: nn.Module) -> None:
        """Draw, and give the pictures to the writers.

        Args:
            storage: of the training.
            model: to predict with, not wrapped; its mode is restored.
        """
        if not self.cfg.TEST.PICTURES or not self.cfg.DATASETS.TEST:
            return
        name = self.cfg.DATASETS.TEST[0]
        if self._records is None:
            records = [r for r in DatasetCatalog.get(name) if r.get("annotations")]
            self._records = records[: self.cfg.TEST.PICTURES]
        prepare, metadata = InferenceInput(self.cfg), MetadataCatalog.get(name)
        training = model.training
        model.eval()
        try:
            for number, record in enumerate(self._records):
                picture = _draw(record, prepare, model, metadata)
                storage.put_image(f"validation/{number}", picture)
        except Exception as error:  # of Matplotlib or a record: a training must not end by it
            logger.warning("No pictures of %s (TEST.PICTURES): %s", name, error)
        finally:
            model.train(training)


@torch.no_grad()
def _draw(record: dict, prepare: InferenceInput, model: nn.Module, metadata: Any) -> np.ndarray:
    """(3, H, W) uint8 RGB."""
    image = read_image(record["file_name"], "BGR", "opencv")
    found = model([prepare(image)])[0]["instances"].to("cpu")
    found = found[found.scores >= LEAST_SCORE]
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    objects = {"annotations": record["annotations"]}  # without maps of stuff
    truth = Visualizer(rgb, metadata).draw_dataset_dict(objects).get_image()
    drawn = Visualizer(rgb, metadata).draw_instance_predictions(found).get_image()
    both = np.concatenate([_limited(truth), _limited(drawn)], axis=1)
    return np.ascontiguousarray(both.transpose(2, 0, 1))


def _limited(picture: np.ndarray) -> np.ndarray:
    scale = LARGEST_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
