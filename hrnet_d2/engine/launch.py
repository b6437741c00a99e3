"""Starting one process for each device: Detectron2's own launcher, or under torchrun."""

import argparse
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessException

from hrnet_d2.config_file import ConfigError

__all__ = ["launch", "limit_cpu_threads"]

Job = Callable[[argparse.Namespace, CfgNode], Any]


def launch(main: Job, args: argparse.Namespace, cfg: CfgNode) -> None:
    """Run ``main(args, cfg)`` in every process of the job.

    Under ``torchrun`` (detected from its environment) this process is one of them already and
    joins the others; ``--num-gpus`` and related flags are ignored. Otherwise Detectron2's launcher
    starts ``args.num_gpus`` processes on this machine.

    Args:
        main: the job.
        args: of Detectron2's argument parser.
        cfg: of these arguments; with ``MODEL.DEVICE`` "cpu", or without a GPU, the processes use
            the gloo backend.

    Raises:
        ConfigError: if more GPUs are asked for than there are, or if machines do not know where
            to meet.
    """
    on_cpu = cfg.MODEL.DEVICE == "cpu" or not torch.cuda.is_available()
    under_torchrun = dist.is_torchelastic_launched()
    local_size = int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun else args.num_gpus
    if cfg.MODEL.DEVICE != "cpu" and local_size > max(1, torch.cuda.device_count()):
        raise ConfigError(
            f"{local_size} processes on this machine need as many GPUs, it has "
            f"{torch.cuda.device_count()}; to train on the CPU set MODEL.DEVICE cpu"
        )
    if under_torchrun:
        _run_under_torchrun(main, args, cfg, local_size, on_cpu)
        return
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ConfigError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://HOST:PORT, the same on all "
            "of them: a free port of the machine of --machine-rank 0"
        )
    if on_cpu:
        # Detectron2's launcher takes NCCL wherever it sees a GPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    several = args.num_gpus * args.num_machines > 1
    with _waiting_on_sigterm() if several else contextlib.nullcontext():
        detectron2_launch(
            _run_and_leave,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args, cfg),
        )


@contextlib.contextmanager
def _waiting_on_sigterm() -> Iterator[None]:
    """On SIGTERM pass it on to the processes started in the body, and wait for their checkpoint.

    A launcher that ended at once would leave them behind; and its death is a SIGINT for them
    (``torch.multiprocessing``), which after a SIGTERM means to end without a checkpoint.

    Raises:
        SystemExit: after a SIGTERM, when the processes have ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def pass_on(number: int, frame: Any) -> None:
        nonlocal received
        received = True
        for process in multiprocessing.active_children():
            process.terminate()
        if not multiprocessing.active_children():
            raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except ProcessException:
        if not received:
            raise
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run_and_leave(main: Job, args: argparse.Namespace, cfg: CfgNode) -> None:
    main(args, cfg)
    # Detectron2's launcher leaves the group to the end of the process, where its threads may
    # still run: "terminate called without an active exception", now and then. After an error
    # nobody waits for the others, which may never come.
    if dist.is_initialized():
        dist.destroy_process_group()


def _run_under_torchrun(
    main: Job, args: argparse.Namespace, cfg: CfgNode, local_size: int, on_cpu: bool
) -> None:
    if not on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if on_cpu else "nccl", init_method="env://")
    try:
        comm.create_local_process_group(local_size)
        comm.synchronize()
        main(args, cfg)
    finally:
        dist.destroy_process_group()


def limit_cpu_threads() -> None:
    """Give each process of this machine its share of the cores, if it runs on the CPU."""
    local_size = comm.get_local_size()
    if local_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
