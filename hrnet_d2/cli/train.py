"""``hrnet-d2 train`` and, with ``--eval-only``, ``hrnet-d2 eval``; ``train_net.py`` calls these."""

import argparse

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from hrnet_d2 import model_zoo
from hrnet_d2.config_file import with_weights
from hrnet_d2.engine import Trainer, evaluate, launch, setup
from hrnet_d2.engine.watch import watch_ranks

__all__ = ["job", "main"]


def job(args: argparse.Namespace, cfg: CfgNode) -> None:
    """What every process of the job runs: training, or evaluation with ``args.eval_only``."""
    with watch_ranks():
        cfg = setup(args, cfg)
        if args.eval_only:
            results = evaluate(cfg, resume=args.resume)
            if comm.is_main_process():
                verify_results(cfg, results)
        else:
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            trainer.train()
        if args.report and comm.is_main_process():
            from hrnet_d2.evaluation.report import write_reports

            write_reports(cfg)


def main(args: argparse.Namespace, prog: str) -> int:
    """Read the config, and start the processes."""
    args.opts = with_weights(args.opts, args.weights)
    launch(job, args, model_zoo.load_config(args.config_file, args.opts))
    return 0
