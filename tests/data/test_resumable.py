"""A training loader continues where a run stopped: the same images, augmented the same way."""

import itertools
import pickle
import random

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data.samplers import TrainingSampler
from detectron2.utils.env import seed_all_rng

from hrnet_d2.data.resumable import build_resumable_loader, stream_of

SHAPES = random.Random(0)
RECORDS = [
    {"index": i, "width": SHAPES.choice((4, 8)), "height": SHAPES.choice((4, 8))} for i in range(23)
]


def augment(record):
    """The image's number, and random numbers as augmentation draws them."""
    return {**record, "drawn": (random.random(), np.random.rand())}


def make(workers, grouped, seed=3, batch_size=3):
    cfg = get_cfg()
    cfg.SEED, cfg.SOLVER.IMS_PER_BATCH = seed, batch_size
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = workers, grouped
    return build_resumable_loader(cfg, RECORDS, augment)


def first(loader, number):
    return list(itertools.islice(iter(loader), number))


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "ungrouped"])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_resumed_loader_goes_on_with_the_next_batch(workers, grouped):
    whole = make(workers, grouped)
    state = stream_of(whole).state_dict()
    expected = first(whole, 24)
    if grouped:
        assert all(len({d["width"] > d["height"] for d in batch}) == 1 for batch in expected)
    for done in (1, 7, 16):
        resumed = make(workers, grouped)
        assert stream_of(resumed).resume(state, done) is None
        assert first(resumed, 24 - done) == expected[done:]


@pytest.mark.parametrize(
    "sampler",
    ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"],
)
def test_what_spawned_workers_get_can_be_pickled(sampler):
    cfg = get_cfg()
    cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.SAMPLER_TRAIN = 3, 2, sampler
    cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5, 0.5
    records = [{**r, "annotations": [{"category_id": r["index"] % 3}]} for r in RECORDS]
    loader = build_resumable_loader(cfg, records, augment)
    twin = pickle.loads(pickle.dumps(loader.dataset.dataset))  # of images, not of batches
    assert stream_of(loader) is not None
    ours, theirs = (itertools.islice(iter(d), 6) for d in (loader.dataset.dataset, twin))
    assert [r["index"] for r in ours] == [r["index"] for r in theirs]


def test_the_order_is_that_of_detectron2():
    seed_all_rng(5)
    loader = make(0, grouped=False, seed=-1)
    found = [d["index"] for batch in first(loader, 10) for d in batch]
    seed_all_rng(5)
    assert found == list(itertools.islice(iter(TrainingSampler(len(RECORDS))), 30))


def test_without_a_seed_the_augmentation_is_free():
    drawn = []
    for _ in range(2):
        loader = make(0, grouped=False, seed=-1)
        stream_of(loader).seed = 1
        drawn.append([d["drawn"] for d in first(loader, 1)[0]])
    assert drawn[0] != drawn[1]


def test_what_keeps_a_stream_from_continuing_is_named():
    state = stream_of(make(2, grouped=True)).state_dict()
    reason = stream_of(make(2, grouped=True, batch_size=2)).resume(state, 4)
    assert reason == "images of a batch in a process: 3 before, 2 now"
    assert "NUM_WORKERS: 2 before, 3 now" in stream_of(make(3, grouped=True)).resume(state, 4)
