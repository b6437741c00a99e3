"""What Detectron2's ``tools/lazyconfig_train_net.py`` does with a LazyConfig.

The tool is not in Detectron2's package; these are its steps, by its documented keys.
"""

import argparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm

__all__ = ["run"]


def evaluate(cfg, model):
    if "evaluator" not in cfg.dataloader:
        return {}
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    print_csv_format(results)
    return results


def run(
    config_file: str,
    overrides: list[str],
    *,
    eval_only: bool = False,
    resume: bool = False,
    checkpointer_class: type = DetectionCheckpointer,
):
    """Train or evaluate.

    Args:
        config_file: a LazyConfig.
        overrides: ``key=value`` of the command line.
        eval_only, resume: the tool's flags.
        checkpointer_class: of the tool's checkpointer.

    Returns:
        The results of the evaluation, the trainer (None with ``eval_only``).
    """
    args = argparse.Namespace(
        config_file=config_file, opts=overrides, eval_only=eval_only, resume=resume
    )
    cfg = LazyConfig.apply_overrides(LazyConfig.load(config_file), overrides)
    default_setup(cfg, args)
    model = instantiate(cfg.model).to(cfg.train.device)
    if eval_only:
        model = create_ddp_model(model)
        checkpointer_class(model).load(cfg.train.init_checkpoint)
        return evaluate(cfg, model), None

    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    checkpointer = checkpointer_class(model, cfg.train.output_dir, trainer=trainer)
    last = {}

    def test():
        last.update(evaluate(cfg, model))
        return last

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
            if comm.is_main_process()
            else None,
            hooks.EvalHook(cfg.train.eval_period, test),
            hooks.PeriodicWriter(
                default_writers(cfg.train.output_dir, cfg.train.max_iter),
                period=cfg.train.log_period,
            )
            if comm.is_main_process()
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, cfg.train.max_iter)
    return last, trainer
