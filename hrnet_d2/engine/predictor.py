"""From images to detections, one at a time or in batches."""

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import InferenceInput
from hrnet_d2.devices import (
    available_device,
    explain_missing_operator,
    set_float32_precision,
)
from hrnet_d2.inference.optimize import optimize_by_config
from hrnet_d2.inference.tta import build_tta, without_resize
from hrnet_d2.modeling import build_model

from .images import AnyImage, ImageLoader, named
from .memory import explain_out_of_memory

__all__ = ["Predictor", "metadata_of"]

logger = logging.getLogger(__name__)

REMEDY = (
    "the Predictor's batch_size, INPUT.MIN_SIZE_TEST (with INPUT.MAX_SIZE_TEST), or set "
    "MODEL.OPTIMIZE.DTYPE bfloat16"
)
# Of a list, this many batches of images are decoded at once: among them are more of one size.
WINDOW = 4
# The process that imported this module; a forked one has another number.
_process = os.getpid()

_Image = TypeVar("_Image", bound=AnyImage)


class Predictor:
    """A model with its weights and input, for images.

    Like Detectron2's ``DefaultPredictor``, for any format of weights and any number of images::

        predictor = Predictor(cfg)
        output = predictor("a.jpg")  # or cv2.imread("a.jpg"), or PIL.Image.open("a.jpg")
        outputs = predictor(["a.jpg", "b.jpg"])
        for output in predictor(video_frames()):  # reads on while the loop runs
            ...

    With ``TEST.AUG.ENABLED`` the detections are those of test-time augmentation.

    Attributes:
        cfg: a copy of the config.
        model: the network, in eval mode.
        prepare: from a BGR image to the network's input (with test-time augmentation: before it).
        metadata: of the first test dataset, or with the config's class names.
    """

    def __init__(self, cfg: CfgNode | str, *, batch_size: int = 8, optimize: bool = True):
        """
        Args:
            cfg: a full config, whose ``MODEL.WEIGHTS`` may be of any supported format; or a
                checkpoint (path or URL), which brings its own; or a name of the model zoo, for the
                published checkpoint.
            batch_size: the most images that run through the network at once.
            optimize: rewrite the network for faster inference as ``MODEL.OPTIMIZE`` says (by
                default the same results to rounding).

        Raises:
            ConfigError: if the config names no weights, a value in it cannot work, or there is no
                test-time augmentation for the model.
            ValueError: if ``batch_size`` is less than 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is a number of images, at least 1; got {batch_size}")
        if not isinstance(cfg, CfgNode):
            cfg = model_zoo.config_of(cfg)
        self.cfg = apply_checkpoint_settings(cfg).clone()
        self.cfg.defrost()
        self.cfg.MODEL.DEVICE = available_device(self.cfg.MODEL.DEVICE)
        self.cfg.freeze()
        check_config(self.cfg, train=False)
        if not cfg.MODEL.WEIGHTS:
            raise ConfigError("MODEL.WEIGHTS is empty: set it to a checkpoint's path or URL")
        set_float32_precision(self.cfg)
        self.batch_size = batch_size
        self.model = build_model(self.cfg)
        self.model.eval()
        Checkpointer(self.model).load(cfg.MODEL.WEIGHTS)
        if optimize:
            self.model = optimize_by_config(self.model, self.cfg)
        self.metadata = metadata_of(self.cfg)
        self.prepare = InferenceInput(self.cfg)
        self._run: Callable[[list[dict]], list[dict]] = self.model
        if self.cfg.TEST.AUG.ENABLED:
            self.prepare = InferenceInput(without_resize(self.cfg))
            self._run = build_tta(self.cfg, self.model)
        self._load = ImageLoader(self.cfg.INPUT.BACKEND, self.cfg.INPUT.MAX_PIXELS)

    @overload
    def __call__(self, images: AnyImage) -> dict[str, Any]: ...

    @overload
    def __call__(self, images: list[_Image] | tuple[_Image, ...]) -> list[dict[str, Any]]: ...

    @overload
    def __call__(self, images: Iterator[_Image]) -> Iterator[dict[str, Any]]: ...

    def __call__(self, images: Any) -> Any:
        """
        Args:
            images: one image, a list or tuple of images, or an iterator (such as a generator) of
                them. An image is the path of a file; a Pillow image; or a (H, W, 3) uint8 array
                in BGR order, as ``cv2.imread`` returns it. Images may have any size.

        Returns:
            For one image the model's output dict: "instances" with ``pred_boxes``, ``scores``,
            ``pred_classes`` and, if the model predicts masks, ``pred_masks``, in the pixels of the
            image. For a list the outputs as a list, in the order of the images. For an iterator an
            iterator of the outputs in the same order: it takes ``batch_size`` images when their
            first output is asked for, and keeps no output that was given away.

        Raises:
            FileNotFoundError: if there is no such file.
            ImageReadError: if a file cannot be decoded as an image.
            TypeError, ValueError: if something is no image: its position and what it is.
        """
        if isinstance(images, list | tuple):
            return self._list(images)
        if isinstance(images, Iterator):
            return self._stream(images)
        return self._predict(self._prepare([self._load(images)]))[0]

    def _list(self, images: Sequence[AnyImage]) -> list[dict[str, Any]]:
        for i, image in enumerate(images):
            with named(f"image {i} of {len(images)}"):
                self._load.check(image)
        outputs: list[dict[str, Any]] = []
        window = WINDOW * self.batch_size
        for start in range(0, len(images), window):
            outputs += self._in_batches([self._load(i) for i in images[start : start + window]])
        return outputs

    def _stream(self, images: Iterator[AnyImage]) -> Iterator[dict[str, Any]]:
        numbered = enumerate(images)
        while batch := list(itertools.islice(numbered, self.batch_size)):
            loaded = []
            for i, image in batch:
                with named(f"image {i}"):
                    loaded.append(self._load(image))
            outputs = self._in_batches(loaded)[::-1]
            del batch, loaded, image
            while outputs:
                yield outputs.pop()

    def _in_batches(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """The outputs of images, in their order."""
        outputs: list[dict[str, Any]] = [{}] * len(images)
        for batch in self._batches(images):
            inputs = self._prepare([images[i] for i in batch])
            for i, output in zip(batch, self._predict(inputs), strict=True):
                outputs[i] = output
        return outputs

    def _batches(self, images: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Positions of images that share their padded size.

        More padding than an image needs alone would change what the network sees at its border, so
        only these run together: results are independent of the other images in the batch.
        """
        backbone: Any = self.model.backbone
        divisor = max(1, backbone.size_divisibility)
        sizes = [self.prepare.padded_size(image.shape[:2], divisor) for image in images]
        order = sorted(range(len(images)), key=lambda i: sizes[i])
        for _, same in itertools.groupby(order, key=lambda i: sizes[i]):
            group = list(same)
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _prepare(self, images: Sequence[np.ndarray]) -> list[dict]:
        size = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        with explain_out_of_memory(
            f"resizing {len(images)} images to {size[0]} pixels, at most {size[1]}", REMEDY
        ):
            return [self.prepare(image) for image in images]

    def _predict(self, inputs: list[dict]) -> list[dict]:
        _limit_threads_after_fork()
        height, width = inputs[0]["image"].shape[-2:]
        with (
            torch.no_grad(),
            explain_out_of_memory(
                f"predicting on {len(inputs)} images at once, the first of {height} x {width} "
                "pixels as resized",
                REMEDY,
            ),
            explain_missing_operator(self.cfg.MODEL.DEVICE),
        ):
            outputs = self._run(inputs)
        return outputs


def _limit_threads_after_fork() -> None:
    """In a forked process, compute on one thread.

    A fork has none of its parent's threads, and OpenMP would wait for them forever.
    """
    global _process
    if os.getpid() == _process:
        return
    _process = os.getpid()
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        logger.warning(
            "This process was forked, so it predicts on one thread: start processes with the "
            "method 'spawn' (multiprocessing.get_context) to use several"
        )


def metadata_of(cfg: CfgNode) -> Metadata:
    """Of the first test dataset; if that is not registered, the config's class names."""
    if cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        if metadata.get("thing_classes") is not None or not cfg.DATASETS.CLASS_NAMES:
            return metadata
    names = list(cfg.DATASETS.CLASS_NAMES)
    return Metadata(name="classes", thing_classes=names) if names else Metadata(name="unknown")
