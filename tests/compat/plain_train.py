"""What Detectron2's ``tools/plain_train_net.py`` does: a training loop written out.

The tool is not in Detectron2's package; these are its steps, on its stock functions.
"""

from collections.abc import Callable

import torch
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from torch import nn

__all__ = ["train", "evaluate"]


def train(
    cfg: CfgNode,
    model: nn.Module,
    *,
    resume: bool = False,
    checkpointer_class: Callable = DetectionCheckpointer,
) -> list[dict[str, float]]:
    """Train ``model``; returns the losses of each iteration that was run."""
    model.train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = checkpointer_class(
        model, cfg.OUTPUT_DIR, optimizer=optimizer, scheduler=scheduler
    )
    start = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume).get("iteration", -1) + 1
    saver = PeriodicCheckpointer(
        checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_iter=cfg.SOLVER.MAX_ITER
    )
    loader = build_detection_train_loader(cfg)
    history = []
    with EventStorage(start) as storage:
        for data, iteration in zip(loader, range(start, cfg.SOLVER.MAX_ITER), strict=False):
            storage.iter = iteration
            losses = model(data)
            total = sum(losses.values())
            assert torch.isfinite(total).all(), losses
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            scheduler.step()
            saver.step(iteration)
            history.append({key: value.item() for key, value in losses.items()})
    return history


def evaluate(cfg: CfgNode, model: nn.Module) -> dict:
    """COCO's metrics on the first test dataset."""
    name = cfg.DATASETS.TEST[0]
    evaluator = COCOEvaluator(name, output_dir=cfg.OUTPUT_DIR)
    return inference_on_dataset(model, build_detection_test_loader(cfg, name), evaluator)
