"""Time, memory and loss curves of training with and without each switch."""

import argparse
import gc
import itertools
import multiprocessing
import statistics
import tempfile

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch.autograd.profiler import profile

from hrnet_d2 import model_zoo
from hrnet_d2.devices import set_float32_precision
from hrnet_d2.engine.trainer import Trainer, step_trainer

from .measuring import peak_memory, resident_memory, speedup, summary, time_interleaved
from .synthetic import calibrate_random_weights, synthetic_input

__all__ = ["SWITCHES", "run_curves", "run_train", "run_training_memory", "switch_options"]

STAGES = "['stage2', 'stage3', 'stage4']"
# Keys that a switch sets over the config.  "plain" leaves every layer to PyTorch and steps as
# Detectron2 does; the other switches come on top of the default and combine by "+".
SWITCHES = {
    "plain": [
        *("MODEL.HRNETV2P.FOLD_NORM", "False"),
        *("MODEL.CPU_KERNELS", "False"),
        *("SOLVER.FUSED", "False"),
    ],
    "default": [],
    "sum": ["MODEL.HRNETV2P.NECK.CONCAT", "False"],
    "channels-last": ["MODEL.CHANNELS_LAST", "True"],
    "checkpoint": ["MODEL.HRNETV2P.ACT_CHECKPOINT", STAGES],
    "fused-sgd": ["SOLVER.FUSED", "True"],
    "bf16": ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"],
    "fp16": ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "float16"],
}
BATCHES = [1, 2, 4]
OPERATORS = 8  # that a profile names


def switch_options(switch: str) -> list[str]:
    """Keys and values of a switch, or of several joined by "+".

    Raises:
        ValueError: if one is unknown.
    """
    names = switch.split("+")
    unknown = [name for name in names if name not in SWITCHES]
    if unknown:
        raise ValueError(f"unknown switch {unknown[0]!r}; there are {sorted(SWITCHES)}")
    return [option for name in names for option in SWITCHES[name]]


def _config(config: str, switch: str, device: str, opts: list[str]) -> CfgNode:
    options = ["MODEL.DEVICE", device, *switch_options(switch), *opts]
    cfg = model_zoo.load_config(config, options)
    set_float32_precision(cfg)
    return cfg


def _batch(size: tuple[int, int], batch: int, classes: int) -> list[dict]:
    return [synthetic_input(*size, objects=8, num_classes=classes, seed=i) for i in range(batch)]


class _Step:
    """One iteration, as the trainer makes it, on the same images each time."""

    def __init__(self, cfg: CfgNode, size: tuple[int, int], batch: int):
        torch.manual_seed(0)
        cfg.SOLVER.BASE_LR = 1e-6  # random weights must not run away
        if cfg.MODEL.HRNETV2P.NORM_EVAL is None:
            cfg.MODEL.HRNETV2P.NORM_EVAL = True  # as with weights that were loaded
        model = Trainer.build_model(cfg)
        calibrate_random_weights(model, [synthetic_input(*size)])
        fcos = cfg.MODEL.META_ARCHITECTURE == "FCOS"
        classes = cfg.MODEL.FCOS.NUM_CLASSES if fcos else cfg.MODEL.ROI_HEADS.NUM_CLASSES
        data = itertools.repeat(_batch(size, batch, classes))
        self.trainer = step_trainer(cfg, model.train(), data, Trainer.build_optimizer(cfg, model))

    def __call__(self) -> None:
        with EventStorage() as self.trainer.storage:
            self.trainer.iter = 0
            self.trainer.run_step()


def _memory_of_step(
    config: str, switch: str, device: str, opts: list[str], size: tuple[int, int], batch: int
) -> int:
    """Bytes, in a process that has done nothing else: weights, gradients, activations and all."""
    before = resident_memory()
    # The statistics of the first pass need little room on a small image.
    step = _Step(_config(config, switch, device, opts), (128, 128), 1)
    step()
    step.trainer.reset_data_loader(lambda: itertools.repeat(_batch(size, batch, 1)))
    gc.collect()
    step()
    return peak_memory(device) - before


def _on_gpu(args: argparse.Namespace) -> bool:
    return torch.device(args.device).type == "cuda"


def _measured_step(
    args: argparse.Namespace, config: str, switch: str, batch: int
) -> tuple[_Step, int]:
    """A step on a GPU, and the most bytes that PyTorch holds for it and its model at once."""
    gc.collect()
    before = torch.cuda.memory_allocated(args.device)
    cfg = _config(config, switch, args.device, args.opts)
    step = _Step(cfg, tuple(args.size), batch)
    step()
    torch.cuda.reset_peak_memory_stats(args.device)
    step()
    return step, peak_memory(args.device) - before


def _peak(args: argparse.Namespace, config: str, switch: str, batch: int) -> int:
    if _on_gpu(args):
        return _measured_step(args, config, switch, batch)[1]
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(
            _memory_of_step, (config, switch, args.device, args.opts, tuple(args.size), batch)
        )


def _operators(step: _Step) -> dict[str, float]:
    """The operators of an iteration with the most time of their own on the CPU: their shares."""
    with profile() as found:
        step()
    own = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(own.values())
    most = sorted(own, key=lambda name: -own[name])[:OPERATORS]
    return {name: round(own[name] / total, 3) for name in most}


def run_train(args: argparse.Namespace) -> list[dict]:
    """A row for each config and switch: milliseconds and peak bytes of an iteration.

    With ``args.profile`` also the shares of the operators.
    """
    rows = []
    for config in args.config:
        size = tuple(args.size)
        if _on_gpu(args):
            made = {s: _measured_step(args, config, s, args.batch) for s in args.switches}
            steps = {switch: step for switch, (step, _) in made.items()}
            peaks = {switch: peak for switch, (_, peak) in made.items()}
        else:
            peaks = {switch: _peak(args, config, switch, args.batch) for switch in args.switches}
            steps = {
                switch: _Step(_config(config, switch, args.device, args.opts), size, args.batch)
                for switch in args.switches
            }
        seconds = time_interleaved(steps, args.repeat, args.device)
        first = seconds[args.switches[0]]
        for switch in args.switches:
            row = {"config": config, "switch": switch, "size": args.size, "batch": args.batch}
            row.update(summary(seconds[switch]), peak_memory_bytes=peaks[switch])
            row["images_per_second"] = round(args.batch / statistics.median(seconds[switch]), 3)
            row["speedup"] = speedup(first, seconds[switch])
            if args.profile:
                row["operators"] = _operators(steps[switch])
            rows.append(row)
            print(
                f"{config} {switch}: {row['median_ms']:.1f} ms an iteration, "
                f"{row['speedup']:.2f} times {args.switches[0]}, "
                f"{peaks[switch] / 2**30:.2f} GiB at most",
                flush=True,
            )
    return rows


def run_training_memory(args: argparse.Namespace) -> list[dict]:
    """A row for each batch: peak bytes of an iteration for each switch."""
    rows = []
    for batch in BATCHES:
        row = {"config": args.config[0], "axis": "training batch", "value": batch}
        for switch in args.switches:
            row[switch] = {"peak_memory_bytes": _peak(args, args.config[0], switch, batch)}
        rows.append(row)
        print("training batch", batch, {k: row[k] for k in args.switches}, flush=True)
    return rows


def run_curves(args: argparse.Namespace) -> list[dict]:
    """A row for each switch and seed: total loss, its means over ten spans of iterations.

    Every run of a seed sees the same images in the same order.  A last row says how far the
    switches' means are from the first switch's of the same seed, and how far that one's
    own seeds are from each other, on average over the spans.
    """
    rows = []
    for switch, seed in itertools.product(args.switches, args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            cfg = _config(args.config[0], switch, args.device, args.opts)
            cfg.SEED, cfg.OUTPUT_DIR = seed, folder
            cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST = args.iterations, ()
            cfg.SOLVER.STEPS = tuple(s for s in cfg.SOLVER.STEPS if s < args.iterations)
            seed_all_rng(seed)
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=False)
            trainer.train()
            losses = [loss for loss, _ in trainer.storage.history("total_loss").values()]
        span = max(1, len(losses) // 10)
        means = [
            round(statistics.mean(losses[i : i + span]), 4) for i in range(0, len(losses), span)
        ]
        rows.append({"config": args.config[0], "switch": switch, "seed": seed, "means": means})
        print(switch, seed, means, flush=True)
    rows.append(_compare_curves(rows, args.switches, args.seeds))
    print(rows[-1])
    return rows


def _compare_curves(rows: list[dict], switches: list[str], seeds: list[int]) -> dict:
    """Mean distance of the curves: of switches by seed, and of the first switch's seeds."""
    curves = {(row["switch"], row["seed"]): row["means"] for row in rows}

    def distance(a: tuple[str, int], b: tuple[str, int]) -> float:
        pairs = zip(curves[a], curves[b], strict=True)
        return statistics.mean(abs(x - y) / x for x, y in pairs)

    first = switches[0]
    of_seeds = [distance((first, a), (first, b)) for a, b in itertools.combinations(seeds, 2)]
    return {
        "reference": first,
        "relative_distance_of_its_seeds": round(statistics.mean(of_seeds), 4) if of_seeds else None,
        "relative_distance_of_switches": {
            switch: round(
                statistics.mean(distance((first, seed), (switch, seed)) for seed in seeds), 4
            )
            for switch in switches[1:]
        },
    }
