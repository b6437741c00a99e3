"""An iteration in parts, batches whose losses are not finite, and images that cannot be used."""

import logging
import re

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from hrnet_d2 import add_hrnet_config
from hrnet_d2.data.bad_images import BadImageError
from hrnet_d2.engine import DivergedError, Trainer
from hrnet_d2.engine.hooks import HookBase
from hrnet_d2.engine.step import divide
from tests.engine.tiny import QUICK_START, tiny_config

# Everything is sampled, so that the losses do not depend on random numbers.
ALL = [
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000",
    "MODEL.RPN.POSITIVE_FRACTION", "1.0",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "1000",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.0",
    "SOLVER.IMS_PER_BATCH", "4",
    "SOLVER.WARMUP_ITERS", "0",
]  # fmt: skip


def fcos_config(folder):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(QUICK_START.replace("faster_rcnn", "fcos"))
    cfg.merge_from_list(["MODEL.HRNETV2P.WIDTH", "4", "MODEL.HRNETV2P.NORM_EVAL", "True"])
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), "SEED", "1"])
    return cfg


def gradients(cfg, parts, images, *, double=False):
    """Losses, and the gradient as one vector."""
    seed_all_rng(1)
    cfg = cfg.clone()
    cfg.SOLVER.ACCUMULATE_STEPS = parts
    trainer = Trainer(cfg)
    if double:
        trainer.model.double()
    with EventStorage():
        losses = trainer._trainer._run_parts(images)
    found = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return {name: float(loss) for name, loss in losses.items()}, torch.cat(found)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four images of one size, the same in every run."""
    seed_all_rng(1)
    cfg = tiny_config(tmp_path_factory.mktemp("images"), *ALL)
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert len(batch) == 4
    return batch


def difference(a, b):
    """The norm of the difference of two gradients over the norm of the first."""
    return float((a - b).norm() / a.norm())


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_equal_images_are_the_whole_batch(tmp_path, images, parts):
    """With norms that hold statistics, and as many objects in each part."""
    same = [images[0]] * 4
    whole, expected = gradients(fcos_config(tmp_path), 1, same, double=True)
    losses, found = gradients(fcos_config(tmp_path), parts, same, double=True)
    assert losses == pytest.approx(whole, rel=1e-5)  # some are computed in float32
    assert difference(expected, found) < 1e-5


def test_parts_of_two_stage_models_are_the_whole_batch(tmp_path, images):
    """In float32, since their NMS knows no other.

    (Parts of a single image round otherwise than a batch, which may select other proposals.)
    """
    same, cfg = [images[0]] * 4, tiny_config(tmp_path, *ALL)
    whole, expected = gradients(cfg, 1, same)
    losses, found = gradients(cfg, 2, same)
    assert losses == pytest.approx(whole, rel=1e-5)
    assert difference(expected, found) < 1e-4


@pytest.mark.parametrize("family", ["fcos", "faster_rcnn"])
def test_parts_of_other_images_differ_by_their_divisors(tmp_path, images, family):
    """Losses are divided by numbers of samples of a part, which are not those of the batch."""
    cfg = fcos_config(tmp_path) if family == "fcos" else tiny_config(tmp_path, *ALL)
    whole, expected = gradients(cfg, 1, images)
    losses, found = gradients(cfg, 2, images)
    assert sum(losses.values()) == pytest.approx(sum(whole.values()), rel=0.1)
    assert difference(expected, found) < 0.3
    if family == "fcos":  # the parts of R-CNNs may have equally many samples
        assert difference(expected, found) > 1e-3


def test_divide():
    assert [len(part) for part in divide(range(5), 2)] == [2, 3]
    assert [len(part) for part in divide(range(2), 4)] == [1, 1]
    assert [i for part in divide(range(7), 3) for i in part] == list(range(7))


class Spoil(HookBase):
    """Makes the losses of some iterations NaN, or huge."""

    def __init__(self, *iterations, factor=float("nan")):
        self.iterations = iterations
        self.factor = factor

    def before_step(self):
        step = self.trainer._trainer
        forward = type(step)._forward

        def spoiled(batch):
            losses = forward(step, batch)
            if self.trainer.iter in self.iterations:
                losses["loss_cls"] = losses["loss_cls"] * self.factor
            return losses

        step._forward = spoiled


def spoiled(folder, *iterations, options=()):
    trainer = Trainer(tiny_config(folder, "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()", *options))
    trainer.register_hooks([Spoil(*iterations)])
    trainer.resume_or_load(resume=False)
    return trainer


def test_a_loss_that_is_not_finite_ends_the_run_with_what_is_known(tmp_path):
    trainer = spoiled(tmp_path, 2, options=["SOLVER.CHECKPOINT_PERIOD", "1"])
    with pytest.raises(DivergedError) as error:
        trainer.train()
    message = str(error.value)
    files = [record["file_name"] for record in trainer._trainer._batch]
    assert all(file in message for file in files) and len(files) == 2
    assert "at iteration 2: " in message and "loss_cls nan" in message
    assert "last finite losses, of iteration 1" in message and "learning rate is 0.01" in message
    assert "Likely cause: these images" in message and "SOLVER.MAX_NONFINITE" in message
    saved = torch.load(tmp_path / "model_0000001.pth", weights_only=False)["model"]
    assert all(torch.equal(value, saved[k]) for k, value in trainer.model.state_dict().items())
    assert not (tmp_path / "model_0000002.pth").exists()


def test_a_loss_that_is_absurdly_large_ends_the_run(tmp_path):
    """With batch statistics losses may stay finite whatever the weights have become."""
    trainer = Trainer(tiny_config(tmp_path, "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()"))
    trainer.register_hooks([Spoil(1, factor=1e12)])
    trainer.resume_or_load(resume=False)
    with pytest.raises(
        DivergedError, match=r"at iteration 1: loss_cls \d.*e\+1[12],.*step was too long"
    ):
        trainer.train()
    assert not list(tmp_path.glob("*.pth"))


def test_skipped_batches_are_counted_and_leave_the_weights(tmp_path, caplog):
    options = ["SOLVER.MAX_NONFINITE", "2"]
    trainer = spoiled(tmp_path, 1, 2, options=options)
    seen = []

    class Watch(HookBase):
        def after_step(self):
            seen.append(self.trainer.model.backbone.reduction_conv.weight.detach().clone())

    trainer.register_hooks([Watch()])
    with caplog.at_level(logging.WARNING, "hrnet_d2"):
        trainer.train()
    said = [m for m in caplog.messages if "is skipped" in m]
    assert len(said) == 2 and "2 of SOLVER.MAX_NONFINITE 2" in said[1]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])
    state = torch.load(tmp_path / "model_final.pth", weights_only=False)["trainer"]["_trainer"]
    assert state["skipped_batches"] == 2
    with pytest.raises(DivergedError, match="iteration 2"):
        spoiled(tmp_path / "again", 0, 1, 2, options=options).train()


@pytest.fixture
def damaged(tmp_path):
    """Twelve images on disk, two of them damaged; the name of the dataset."""
    records = []
    for i in range(12):
        file = tmp_path / f"{i}.png"
        image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(file), image)
        if i in (3, 7):
            file.write_bytes(file.read_bytes()[:40])
        box = {"bbox": [8, 8, 40, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": i % 4}
        records.append(
            {
                "file_name": str(file),
                "image_id": i,
                "height": 48,
                "width": 64,
                "annotations": [box],
            }
        )
    name = f"damaged_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["circle", "square", "triangle", "star"])
    yield name
    DatasetCatalog.remove(name)


def read(folder, name, budget, workers=0, resume=None):
    cfg = tiny_config(
        folder,
        "DATASETS.TRAIN", f"('{name}',)",
        "DATALOADER.MAX_BAD_IMAGES", str(budget),
        "DATALOADER.NUM_WORKERS", str(workers),
    )  # fmt: skip
    loader = Trainer.build_train_loader(cfg)
    if resume is not None:
        assert loader.stream.resume(*resume) is None
    batches = iter(loader)
    return loader.stream, [[r["image_id"] for r in next(batches)] for _ in range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_within_the_budget(tmp_path, damaged, workers, caplog):
    with caplog.at_level(logging.WARNING, "hrnet_d2"):
        stream, batches = read(tmp_path, damaged, 2, workers)
    seen = {image for batch in batches for image in batch}
    assert seen == set(range(12)) - {3, 7}
    if not workers:  # those of workers go to their own log
        assert len(re.findall("Left out", caplog.text)) == 2
    # A run that resumes after 8 batches reads what this one read then.
    _, rest = read(tmp_path, damaged, 2, workers, resume=(stream.state_dict(), 8))
    assert rest[:12] == batches[8:]


def test_a_bad_image_ends_the_run_and_is_named(tmp_path, damaged):
    with pytest.raises(Exception, match=r"[37]\.png"):
        read(tmp_path, damaged, 0)
    with pytest.raises(BadImageError, match=r"[37]\.png.*DATALOADER.MAX_BAD_IMAGES is 1"):
        read(tmp_path, damaged, 1)
