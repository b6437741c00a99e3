"""What everything around an iteration costs: hooks, checks, averaging, writers and checkpoints."""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from hrnet_d2 import model_zoo
from hrnet_d2.engine.trainer import Trainer

from .inference import CLOCKS

__all__ = ["run_loop"]

WARM_UP = 3  # iterations that are not counted
SAVES = 3


class _Bare:
    """Detectron2's plain iteration and the schedule, without any hook."""

    def __init__(self, cfg: CfgNode, clock: Callable[[], float]):
        self.clock = clock
        seed_all_rng(cfg.SEED)
        model = Trainer.build_model(cfg)
        optimizer = Trainer.build_optimizer(cfg, model)
        loader = Trainer.build_train_loader(cfg)
        self.step = SimpleTrainer(model.train(), loader, optimizer)
        self.scheduler = Trainer.build_lr_scheduler(cfg, optimizer)

    def __call__(self, iteration: int) -> float:
        with EventStorage(iteration) as self.step.storage:
            start = self.clock()
            self.step.iter = iteration
            self.step.run_step()
            self.scheduler.step()
            return self.clock() - start


class _Full:
    """An iteration of the trainer, with the seconds of each hook."""

    def __init__(self, cfg: CfgNode, clock: Callable[[], float]):
        self.clock = clock
        seed_all_rng(cfg.SEED)
        self.trainer = Trainer(cfg)
        self.trainer.resume_or_load(resume=False)
        self.hooks: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def running(self) -> Iterator[None]:
        with EventStorage(0) as self.trainer.storage:
            self.trainer.before_train()
            yield
            self.trainer.after_train()

    def __call__(self, iteration: int) -> float:
        trainer = self.trainer
        start = self.clock()
        trainer.iter = trainer.storage.iter = iteration
        spent: dict[str, float] = defaultdict(float)
        for hook in trainer._hooks:
            begin = self.clock()
            hook.before_step()
            spent[type(hook).__name__] += self.clock() - begin
        trainer.run_step()
        for hook in trainer._hooks:
            begin = self.clock()
            hook.after_step()
            spent[type(hook).__name__] += self.clock() - begin
        trainer.storage.step()
        seconds = self.clock() - start
        for name, value in spent.items():
            self.hooks[name].append(value)
        return seconds


def run_loop(args: argparse.Namespace) -> list[dict]:
    """A row for each config: milliseconds of an iteration without and with everything around it.

    Both run alternately in one process, on the same images. Evaluations are left out; checkpoints
    are timed apart, always by the clock on the wall.
    """
    rows = []
    clock = CLOCKS[args.clock]
    for config in args.config:
        with tempfile.TemporaryDirectory() as folder:
            options = ["OUTPUT_DIR", folder, "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "0"]
            options += ["MODEL.DEVICE", args.device, "SEED", "1", "SOLVER.EMA.ENABLED", "True"]
            options += ["SOLVER.MAX_ITER", "5000", "SOLVER.STEPS", "(3500, 4500)"]
            options += ["SOLVER.CHECKPOINT_PERIOD", "5000"]
            cfg = model_zoo.load_config(config, [*options, *args.opts])
            full = _Full(cfg, clock)
            bare = _Bare(cfg, clock)
            seconds: dict[str, list[float]] = {"bare": [], "full": []}
            pair: dict[str, Callable[[int], float]] = {"bare": bare, "full": full}
            with full.running():
                for iteration in range(WARM_UP + args.iterations):
                    order = ("bare", "full") if iteration % 2 else ("full", "bare")
                    for name in order:
                        seconds[name].append(pair[name](iteration))
            saving = []
            for number in range(SAVES):
                start = time.perf_counter()
                full.trainer.checkpointer.save(f"model_{number}", iteration=number)
                saving.append(time.perf_counter() - start)
        counted = {name: values[WARM_UP:] for name, values in seconds.items()}
        hooks = {name: statistics.mean(v[WARM_UP:]) * 1e3 for name, v in full.hooks.items()}
        mean = {name: statistics.mean(values) * 1e3 for name, values in counted.items()}
        median = {name: statistics.median(values) * 1e3 for name, values in counted.items()}
        row = {
            "config": config,
            "clock": args.clock,
            "iterations": args.iterations,
            "bare_mean_ms": round(mean["bare"], 2),
            "full_mean_ms": round(mean["full"], 2),
            "bare_median_ms": round(median["bare"], 2),
            "full_median_ms": round(median["full"], 2),
            "hooks_mean_ms": {
                n: round(v, 3) for n, v in sorted(hooks.items(), key=lambda i: -i[1])
            },
            "checkpoint_s": round(statistics.median(saving), 3),
            "hooks_share": round(sum(hooks.values()) / mean["bare"], 4),
        }
        rows.append(row)
        print(row, flush=True)
    return rows
