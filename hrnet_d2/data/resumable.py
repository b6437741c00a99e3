"""A training loader whose images and augmentations can be continued where a run stopped.

Every image that the sampler names carries its position in the stream of images. The position seeds
the augmentation, so that an image is the same whichever worker reads it and whatever was read
before; and a resumed run skips the images that were used.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from .bad_images import SkippingMapper

__all__ = ["DataStream", "build_resumable_loader", "stream_of"]


class DataStream(Sampler):
    """An endless sampler of numbers ``position * size + index``, which can start later.

    Attributes:
        seed: of the order of the images, and of their augmentation.
        deterministic: whether the augmentation follows the seed.
    """

    def __init__(
        self,
        wide: np.ndarray,
        make: Callable[[int], Iterable[int]],
        *,
        batch_size: int,
        grouped: bool,
        workers: int,
        deterministic: bool,
    ):
        """
        Args:
            wide: (N,) bool, whether each image of the dataset is wider than high.
            make: from a seed to the endless indices of this process.
            batch_size: images of a batch in this process.
            grouped: whether a batch has images of one orientation.
            workers: processes that read images.
            deterministic: whether the augmentation follows the seed.
        """
        self.wide = wide
        self.make = make
        self.batch_size = batch_size
        self.grouped = grouped
        # Each worker reads a batch's worth of the sampler in turn; see Detectron2's
        # _shard_iterator_dataloader_worker. One image at a time is taken from each when grouped.
        self.workers = max(1, workers) if grouped else 1
        self.deterministic = deterministic
        self.seed: int = comm.shared_random_seed()
        self._used = 0
        self._waiting: list[tuple[int, int]] = []

    def state_dict(self) -> dict[str, int]:
        """What must be the same in a run that continues this one."""
        return {
            "seed": self.seed,
            "images": len(self.wide),
            "images of a batch in a process": self.batch_size,
            "processes": comm.get_world_size(),
            "DATALOADER.NUM_WORKERS": self.workers,
        }

    def resume(self, state: Mapping[str, int], batches_done: int) -> str | None:
        """Continue a run's stream; before the loader is iterated.

        Args:
            state: :meth:`state_dict` of that run.
            batches_done: batches that each process has used.

        Returns:
            None, or why the stream starts over instead.
        """
        own = self.state_dict()
        changed = [
            f"{key}: {state.get(key)} before, {value} now"
            for key, value in own.items()
            if key != "seed" and state.get(key) != value
        ]
        if changed:
            return "; ".join(changed)
        self.seed = int(state["seed"])
        self._replay(batches_done)
        return None

    def __iter__(self) -> Iterator[int]:
        size = len(self.wide)
        if not self._used:
            numbers: Iterator[tuple[int, int]] = enumerate(self.make(self.seed))
        else:
            rest = itertools.islice(self._as_read(), self._used, None)
            numbers = self._as_sampled(itertools.chain(self._waiting, rest))
        for position, index in numbers:
            yield position * size + index

    def _replay(self, batches: int) -> None:
        """Find how many images were read for so many batches, and which of them wait for others of
        their orientation, as Detectron2's AspectRatioGroupedDataset fills its batches."""
        waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        read = self._as_read()
        self._used = 0
        while batches:
            number = next(read)
            self._used += 1
            batch = waiting[self.grouped and bool(self.wide[number[1]])]
            batch.append(number)
            if len(batch) == self.batch_size:
                batch.clear()
                batches -= 1
        self._waiting = waiting[False] + waiting[True]

    def _as_read(self) -> Iterator[tuple[int, int]]:
        """(position, index) of the whole stream in the order in which the loader yields images."""
        numbers = enumerate(self.make(self.seed))
        b, w = self.batch_size, self.workers
        while block := list(itertools.islice(numbers, b * w)):
            yield from (block[worker * b + i] for i in range(b) for worker in range(w))

    def _as_sampled(self, numbers: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The inverse of the loader's order: what to sample for it to yield ``numbers``."""
        b, w = self.batch_size, self.workers
        while block := list(itertools.islice(numbers, b * w)):
            yield from (block[i * w + worker] for worker in range(w) for i in range(b))


class _Numbered(Dataset):
    """Records by the numbers of :class:`DataStream`, with the number."""

    def __init__(self, records: list[dict]):
        self.records = DatasetFromList(records, copy=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> tuple[int, dict]:
        return number, self.records[number % len(self.records)]


class _Indexed(Dataset):
    """As above, with the index of the record in its place."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> tuple[int, int]:
        return number, number % self.size


class _SeededMapper:
    """A mapper whose random numbers follow the position of the image in the stream."""

    def __init__(self, mapper: Callable[[Any], Any], stream: DataStream):
        self.mapper = mapper
        self.stream = stream
        self.rank = comm.get_rank()

    def __call__(self, numbered: tuple[int, Any]) -> Any:
        number, record = numbered
        if not self.stream.deterministic:
            return self.mapper(record)
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        sequence = np.random.SeedSequence([self.stream.seed, self.rank, number])
        words = sequence.generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.default_generator.manual_seed(int(words[2]))
        try:
            return self.mapper(record)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


def build_resumable_loader(
    cfg: CfgNode, records: list[dict], mapper: Callable[[Any], Any]
) -> Iterable[list[dict]]:
    """Detectron2's training loader, over a :class:`DataStream` (see :func:`stream_of`).

    The order of the images is Detectron2's. With ``SEED`` set, the augmentation of an image
    depends on the seed and its position alone.

    Args:
        cfg: the config; samplers other than Detectron2's three common ones are not resumable.
        records: of the dataset.
        mapper: from a record to the model's input.
    """
    make = _sampler(cfg, records)
    batch_size = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if make is None or batch_size < 1 or "width" not in records[0]:
        return build_detection_train_loader(cfg, mapper=mapper, dataset=records)
    wide = np.array([record["width"] > record["height"] for record in records])
    dataset: Any = _Numbered(records)
    budget = cfg.DATALOADER.get("MAX_BAD_IMAGES", 0)  # a config without this package's keys
    if budget:
        mapper = SkippingMapper(mapper, dataset.records, wide, budget)
        dataset = _Indexed(len(records))
    stream = DataStream(
        wide,
        make,
        batch_size=batch_size,
        grouped=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        workers=cfg.DATALOADER.NUM_WORKERS,
        deterministic=cfg.SEED >= 0,
    )
    loader: Any = build_detection_train_loader(
        dataset,
        mapper=_SeededMapper(mapper, stream),
        sampler=stream,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    loader.stream = stream
    return loader


def stream_of(loader: Any) -> DataStream | None:
    """The stream of a loader of :func:`build_resumable_loader`; None for any other loader."""
    return getattr(loader, "stream", None)


def _sampler(cfg: CfgNode, records: list[dict]) -> Callable[[int], Iterable[int]] | None:
    """Detectron2's sampler of ``DATALOADER.SAMPLER_TRAIN``, from a seed.

    It goes to the worker processes, which are spawned on some systems, so it can be pickled.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return functools.partial(_training_sampler, len(records))
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return functools.partial(_repeat_factor_sampler, factors, cfg.SEED)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return functools.partial(_random_subset_sampler, len(records), ratio)
    return None


def _training_sampler(size: int, seed: int) -> TrainingSampler:
    return TrainingSampler(size, seed=seed)


def _repeat_factor_sampler(
    factors: torch.Tensor, configured: int, seed: int
) -> RepeatFactorTrainingSampler:
    # Detectron2 seeds this one with SEED itself.
    return RepeatFactorTrainingSampler(factors, seed=configured if configured >= 0 else seed)


def _random_subset_sampler(size: int, ratio: float, seed: int) -> RandomSubsetTrainingSampler:
    return RandomSubsetTrainingSampler(size, ratio, seed_shuffle=seed, seed_subset=seed + 1)
