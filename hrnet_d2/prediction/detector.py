"""A predictor as the pipeline uses it: decoded images in, small predictions out."""

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .result import Prediction, from_instances

__all__ = ["Detector"]

# Of the padded images that run through a network on a CPU at once. More is slower there, since
# the maps no longer fit into the caches, and fewer small images leave the cores waiting for Python.
CPU_PIXELS = 2**20
MOST_ON_CPU = 16
ON_GPU = 8


class Detector:
    """Runs a predictor on images of any sizes, those of one size together.

    Attributes:
        seconds: that the network took, summed over the threads that called it.
    """

    def __init__(self, predictor: Any, threshold: float = 0.0, batch_size: int | None = None):
        """
        Args:
            predictor: a ``Predictor``, or another that takes a list of BGR images.
            threshold: the least score of the detections.
            batch_size: the most images that run at once; None: as many as suit their size and the
                device.

        Raises:
            ValueError: if ``batch_size`` is less than 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"The batch size must be 1 or more, not {batch_size}")
        self.predictor = predictor
        self.threshold = threshold
        self.batch_size = batch_size
        self.seconds = 0.0
        self._lock = threading.Lock()
        model = getattr(predictor, "model", None)
        device = "cpu" if model is None else next(model.parameters()).device.type
        self.on_cpu = device == "cpu"
        self._cuda = device == "cuda"
        self._divisor = max(1, model.backbone.size_divisibility) if model is not None else 0
        if model is not None:
            predictor.batch_size = max(predictor.batch_size, batch_size or MOST_ON_CPU)

    def padded_size(self, image: np.ndarray) -> tuple[int, int]:
        """Height and width that an image has in the network, as far as they are known."""
        if not self._divisor:
            return image.shape[0], image.shape[1]
        size: tuple[int, int] = self.predictor.prepare.padded_size(image.shape[:2], self._divisor)
        return size

    def most_at_once(self, image: np.ndarray) -> int:
        """The images of this size that run through the network together."""
        if self.batch_size is not None:
            return self.batch_size
        if not self._divisor:
            return 1
        if not self.on_cpu:
            return ON_GPU
        height, width = self.padded_size(image)
        return max(1, min(MOST_ON_CPU, CPU_PIXELS // (height * width)))

    def __call__(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """
        Args:
            images: each (H, W, 3) uint8 BGR.

        Returns:
            The detections of each, without the names of the image.
        """
        sizes = [self.padded_size(image) for image in images]
        order = sorted(range(len(images)), key=lambda i: sizes[i])
        found: list[Prediction] = [Prediction()] * len(images)
        for _, same in itertools.groupby(order, key=lambda i: sizes[i]):
            group = list(same)
            step = self.most_at_once(images[group[0]])
            for start in range(0, len(group), step):
                part = group[start : start + step]
                for i, prediction in zip(part, self._run([images[i] for i in part]), strict=True):
                    found[i] = prediction
        return found

    def _run(self, images: list[np.ndarray]) -> list[Prediction]:
        start = time.perf_counter()
        outputs = self.predictor(images)
        if self._cuda:
            torch.cuda.synchronize()
        with self._lock:
            self.seconds += time.perf_counter() - start
        return [from_instances(output["instances"], self.threshold) for output in outputs]
