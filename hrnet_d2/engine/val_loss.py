"""The losses on the validation data, for curves beside those of training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.data import DataLoader, Sampler

from hrnet_d2.data.dataset_mapper import HRNetDatasetMapper
from hrnet_d2.modeling.backbone.norm_eval import keep_running_statistics

from . import progress
from .hooks import seed_all

__all__ = ["ValidationLosses"]


class ValidationLosses:
    """Mean losses over the images of ``DATASETS.TEST``, at the size of evaluation.

    The network is in training mode, without gradients and with its normalization layers on their
    running statistics, which stay as they are.  Images are not augmented, and the sampling of
    proposals is the same each time.  The random numbers of the training are left untouched.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: the full config.
        """
        self.cfg = cfg
        self._data: tuple[DataLoader, list[int]] | None = None

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """
        Args:
            model: not wrapped; every process must call this.

        Returns:
            Losses by name, with "val_" before it, and their sum "val_loss"; in every process.
        """
        if self._data is None:
            self._data = _loader(self.cfg)
        loader, counts = self._data
        sums: dict[str, float] = {}
        with _as_in_training(model), torch.no_grad(), EventStorage():
            for counted, batch in zip(counts, loader, strict=True):
                # All processes run equally often: losses may be divided by numbers of all of them.
                losses = model(batch)
                values = torch.stack([loss.float() for loss in losses.values()]).tolist()
                for name, value in zip(losses, values, strict=True):
                    sums[name] = sums.get(name, 0.0) + counted * value
                progress.mark()
        totals: dict[str, float] = {}
        for part, images in comm.all_gather((sums, sum(counts))):
            for name, value in (*part.items(), ("images", images)):
                totals[name] = totals.get(name, 0.0) + value
        images = totals.pop("images")
        found = {f"val_{name}": value / images for name, value in totals.items()}
        return {**found, "val_loss": sum(found.values())}


def _loader(cfg: CfgNode) -> tuple[DataLoader, list[int]]:
    """Of this process's images, and whether each counts (1) or fills up (0)."""
    records = get_detection_dataset_dicts(list(cfg.DATASETS.TEST), filter_empty=False)
    world, rank = comm.get_world_size(), comm.get_rank()
    numbers = range(rank, -(-len(records) // world) * world, world)
    loader = build_detection_test_loader(
        records,
        mapper=HRNetDatasetMapper(_without_augmentation(cfg), True),
        sampler=_Fixed([min(number, len(records) - 1) for number in numbers]),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return loader, [int(number < len(records)) for number in numbers]


def _without_augmentation(cfg: CfgNode) -> CfgNode:
    """``cfg`` whose training images are those of evaluation."""
    plain = cfg.clone()
    plain.defrost()
    node = plain.INPUT
    node.MIN_SIZE_TRAIN = (node.MIN_SIZE_TEST,)
    node.MAX_SIZE_TRAIN = node.MAX_SIZE_TEST
    node.MIN_SIZE_TRAIN_SAMPLING = "choice"
    node.RANDOM_FLIP = "none"
    node.CROP.ENABLED = node.SCALE_JITTER.ENABLED = False
    node.MOSAIC.PROB = node.COPY_PASTE.PROB = 0.0
    node.COLOR_JITTER.BRIGHTNESS = node.COLOR_JITTER.CONTRAST = node.COLOR_JITTER.SATURATION = 0.0
    return plain


class _Fixed(Sampler):
    def __init__(self, indices: list[int]):
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Training mode with norms held and random numbers of its own; all as before at the end."""
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            model.train()
            keep_running_statistics(model)
            seed_all(0, comm.get_rank())
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, mode in modes:
            module.training = mode
