"""Our six families in Detectron2's training tools."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer

from hrnet_d2 import model_zoo
from tests.compat import lazy_train, plain_train
from tests.compat.setting import BASES, TRAIN, VAL, check_instances, family_config
from tests.test_lazy_configs import TWINS

pytestmark = pytest.mark.slow
FAMILIES = list(BASES)
each_family = pytest.mark.parametrize("family", FAMILIES)


def check_metrics(results: dict, family: str) -> None:
    """Every number that COCO's evaluation gives is there; of an untrained model they are small."""
    tasks = {"bbox", "segm"} if "mask" in family or family == "htc" else {"bbox"}
    assert set(results) == tasks
    for metrics in results.values():
        assert 0 <= metrics["AP"] <= 100 or np.isnan(metrics["AP"])


class StockTrainer(DefaultTrainer):
    """As in ``tools/train_net.py``."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=str(Path(cfg.OUTPUT_DIR) / "inference"))


@each_family
def test_default_trainer(family, tmp_path):
    cfg = family_config(family, tmp_path)
    torch.manual_seed(0)
    trainer = StockTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert torch.isfinite(torch.stack([p.abs().max() for p in trainer.model.parameters()])).all()
    results = StockTrainer.test(cfg, trainer.model)
    check_metrics(results, family)
    cfg.SOLVER.MAX_ITER = 3
    again = StockTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    state = trainer.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in again.model.state_dict().items())


@each_family
def test_plain_train_net(family, tmp_path):
    cfg = family_config(family, tmp_path)
    torch.manual_seed(0)
    model = build_model(cfg)
    assert len(plain_train.train(cfg, model)) == 2
    cfg.SOLVER.MAX_ITER = 3
    assert len(plain_train.train(cfg, build_model(cfg), resume=True)) == 1
    check_metrics(plain_train.evaluate(cfg, model), family)


@each_family
def test_lazyconfig_train_net(family, tmp_path):
    (name,) = (lazy for yaml, lazy in TWINS.items() if yaml.split("/")[0] == family)
    overrides = [
        f"train.output_dir={tmp_path}",
        "train.init_checkpoint=''",
        "train.device=cpu",
        "train.max_iter=2",
        "optimizer.lr=1e-4",
        "train.eval_period=2",
        "train.checkpointer.period=1",
        f"dataloader.train.dataset.names={TRAIN}",
        f"dataloader.test.dataset.names={VAL}",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
        "dataloader.test.mapper.augmentations.0.short_edge_length=64",
        "model.backbone.bottom_up.norm=GN",
    ]
    if family == "fcos":
        overrides += ["model.num_classes=4", "model.test_score_thresh=0.0"]
    else:
        overrides += ["model.roi_heads.num_classes=4", "model.roi_heads.batch_size_per_image=16"]
        overrides += ["model.proposal_generator.post_nms_topk=[30,10]"]
    if "cascade" in family or family == "htc":
        stages = "model.roi_heads.box_predictors.{}.test_score_thresh=0.0"
        overrides += [stages.format(stage) for stage in range(3)]
    elif family != "fcos":
        overrides += ["model.roi_heads.box_predictor.test_score_thresh=0.0"]
    path = model_zoo.get_config_file(name)
    results, trainer = lazy_train.run(path, overrides)
    check_metrics(results, family)
    assert trainer.iter == 2 and (tmp_path / "model_final.pth").is_file()
    evaluated, _ = lazy_train.run(
        path,
        [*overrides, f"train.init_checkpoint={tmp_path / 'model_final.pth'}"],
        eval_only=True,
    )
    assert evaluated["bbox"]["AP"] == pytest.approx(results["bbox"]["AP"], nan_ok=True)
    _, trainer = lazy_train.run(path, [*overrides, "train.max_iter=3"], resume=True)
    assert trainer.start_iter == 2


@each_family
def test_benchmark(family, tmp_path):
    """``benchmark.py``: the loader, the training and the inference, each on its own."""
    cfg = family_config(family, tmp_path)
    cached = list(itertools.islice(build_detection_train_loader(cfg), 2))
    torch.manual_seed(0)
    model = build_model(cfg)
    trainer = SimpleTrainer(model.train(), cached, build_optimizer(cfg, model))
    trainer.train(0, 2)
    model.eval()
    with torch.no_grad():
        for inputs in build_detection_test_loader(cfg, VAL):
            (output,) = model(inputs)
            check_instances(output, (inputs[0]["height"], inputs[0]["width"]))
