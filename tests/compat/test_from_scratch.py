"""Detectron2's own trainer and heads on the HRNetV2p backbone, from scratch with defaults.

Nothing is loaded, no key of normalization is set and no part of this package's engine runs: the
backbone measures its statistics, and the loss falls.
"""

import logging
import math

import pytest
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.utils.env import seed_all_rng
from torch.nn.modules.batchnorm import _BatchNorm

from hrnet_d2 import add_hrnet_config

ITERATIONS = 100
# A name, Detectron2's config, and the stride of the neck that its heads are made for.
MODELS = {
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", 2),
    "mask_rcnn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", 1),
    "panoptic_fpn": ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", 1),
}


class Losses(HookBase):
    """Every iteration's total loss."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def after_step(self) -> None:
        self.values.append(self.trainer.storage.history("total_loss").latest())


def config(name: str, output: str) -> CfgNode:
    file, stride = MODELS[name]
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(detectron2_zoo.get_config_file(file))
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2p_backbone"
    cfg.MODEL.HRNETV2P.NECK.STRIDE = stride
    cfg.MODEL.HRNETV2P.WIDTH = 18
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    metadata = MetadataCatalog.get("shapes_train")
    cfg.MODEL.RETINANET.NUM_CLASSES = len(metadata.thing_classes)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(metadata.thing_classes)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8  # of the built-in maps
    cfg.DATASETS.TRAIN = ("shapes_train",)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    # Fewer samples than for images of 800 pixels, so that a test takes minutes.
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 100
    # The default rate is that of 16 images, and scales with the batch.
    cfg.SOLVER.BASE_LR *= 2 / cfg.SOLVER.IMS_PER_BATCH
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = ITERATIONS
    cfg.SOLVER.STEPS = ()
    cfg.OUTPUT_DIR = output
    seed_all_rng(1)  # SEED is for default_setup, which the trainer does not call
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_falls_and_stays_finite(tmp_path, caplog, name):
    trainer = DefaultTrainer(config(name, str(tmp_path)))
    trainer.resume_or_load(resume=False)
    losses = Losses()
    trainer.register_hooks([losses])
    with caplog.at_level(logging.INFO):
        trainer.train()
    values = losses.values
    print(name, [round(v, 2) for v in values[::10]])
    assert len(values) == ITERATIONS and all(map(math.isfinite, values))
    first, last = sum(values[:20]) / 20, sum(values[-20:]) / 20
    assert last < 0.95 * first, values
    assert max(values) < 3 * first, values

    norms = [m for m in trainer.model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(m.num_batches_tracked == ITERATIONS for m in norms)
    assert sum("NORM_EVAL auto" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.slow
def test_a_resumed_run_goes_on_measuring(tmp_path):
    cfg = config("retinanet", str(tmp_path))
    cfg.SOLVER.MAX_ITER = 3
    trainer = DefaultTrainer(cfg)
    trainer.train()
    cfg.SOLVER.MAX_ITER = 5
    resumed = DefaultTrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    norms = [m for m in resumed.model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(m.training and m.num_batches_tracked == 5 for m in norms)

    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
    cfg.OUTPUT_DIR = str(tmp_path / "tuned")
    tuned = DefaultTrainer(cfg)
    tuned.resume_or_load(resume=False)
    tuned.train()
    norms = [m for m in tuned.model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert not any(m.training for m in norms)
