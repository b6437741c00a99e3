"""From command-line arguments to a frozen config and a process that is ready to run it."""

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import find_last
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.config import upgrade_config
from hrnet_d2.config_check import check_config
from hrnet_d2.data import check_datasets, configure_custom_data, register_from_config
from hrnet_d2.devices import available_device, set_float32_precision
from hrnet_d2.file_io import atomic_write

from . import run_folder
from .console import quiet_screen
from .launch import limit_cpu_threads
from .own_data import suit_own_data
from .trackers import WRITERS

__all__ = ["argument_parser", "register_datasets", "setup"]

logger = logging.getLogger(__name__)


DATA_OPTIONS = ("--train-data", "--val-data")
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")

EPILOG = """
Examples:

Run on single machine:
    $ {0} --num-gpus 8 --config-file cfg.yaml

Train on custom data, in COCO's format or as a folder of YOLO, Pascal VOC or Roboflow:
    $ {0} --config-file cfg.yaml --train-data train.json images/ --val-data val.json images/
    $ {0} --config-file cfg.yaml --train-data folder/

Change some config options:
    $ {0} --config-file cfg.yaml MODEL.WEIGHTS model.pth SOLVER.BASE_LR 0.001

Run on multiple machines:
    (machine0)$ {0} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {0} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""


def argument_parser(prog: str = "train_net.py") -> argparse.ArgumentParser:
    """Detectron2's arguments, and custom data by path.

    Args:
        prog: the name of the program, for its help.
    """
    parser = _Parser(
        prog=prog,
        parents=[default_argument_parser(EPILOG.format(prog))],
        add_help=False,
        epilog=EPILOG.format(prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="delete the checkpoints of an earlier run in OUTPUT_DIR and start a new one",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="short for MODEL.WEIGHTS FILE; without --config-file the checkpoint brings its config",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="after the evaluation, write report.html beside its results: AP by class and size, "
        "kinds of mistakes, and images",
    )
    parser.add_argument(
        "--tracker",
        action="append",
        choices=sorted(WRITERS),
        help="send metrics and pictures to this tracker as well; may be given twice",
    )
    custom = parser.add_argument_group("custom data (COCO, YOLO, Pascal VOC, CVAT)")
    for option, purpose in (("--train-data", "train on"), ("--val-data", "evaluate on")):
        custom.add_argument(
            option,
            nargs=2,
            metavar=("DATA", "[IMAGES]"),
            help=f"data to {purpose}: the folder or description of a dataset, or a COCO file and "
            "its folder of images",
        )
    custom.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="X",
        help="evaluate on this part of the training images, and train on the others (0.2: a fifth)",
    )
    custom.add_argument(
        "--train-sem-seg", metavar="DIR", help="folder of stuff maps of the training images (HTC)"
    )
    return parser


class _Parser(argparse.ArgumentParser):
    """Lets the second value of options for data be left out."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        for option in DATA_OPTIONS:
            if option in args and _is_single(args[args.index(option) + 1 :]):
                args.insert(args.index(option) + 2, "")
        found, rest = super().parse_known_args(args, namespace)
        for option in DATA_OPTIONS:
            name = option[2:].replace("-", "_")
            if getattr(found, name, None):
                setattr(found, name, [value for value in getattr(found, name) if value])
        return found, rest


def _is_single(values: Sequence[str]) -> bool:
    """Whether a path is the only value of its option: another option or config key follows."""
    if not values or values[0].startswith("--"):
        return False  # an error, which the parser tells
    following = values[1] if len(values) > 1 else "--"
    return following.startswith("--") or (
        CONFIG_KEY.fullmatch(following) is not None and not os.path.exists(following)
    )


def setup(args: argparse.Namespace, cfg: CfgNode | None = None) -> CfgNode:
    """Make this process ready: Detectron2's setup (folder, logs, seed), and this package's log.

    Args:
        args: of :func:`argument_parser`. ``config_file`` may be a path or a name of the model zoo.
        cfg: the config of these arguments, if it has been read already; it stays as it is.

    Returns:
        The config with custom data registered and applied, frozen.

    Raises:
        ModelZooError: if there is neither such a config file nor such a model.
        ConfigError: if the file, a key or a value cannot be used, a dataset does not exist or there
            is none to evaluate on.
        RunFolderError: if another run is using the output folder, or a new training would replace
            the checkpoints in it.
        DatasetError: if custom data cannot be used (see
            :func:`hrnet_d2.data.configure_custom_data`).
        FileNotFoundError: if a file or folder of the data is missing.
    """
    # First, so that messages about the config reach the screen; again below, for the file.
    setup_logger(distributed_rank=comm.get_rank(), name="hrnet_d2")
    cfg = model_zoo.load_config(args.config_file, args.opts) if cfg is None else cfg.clone()
    cfg.defrost()
    upgrade_config(cfg)
    if args.config_file:
        args.config_file = model_zoo.config_path(args.config_file)  # which Detectron2 logs
    if args.train_data or args.val_data:
        configure_custom_data(
            cfg,
            args.train_data,
            args.val_data,
            args.train_sem_seg,
            val_fraction=getattr(args, "val_fraction", 0.0),
        )
        if args.train_data and not args.eval_only:
            assumed = suit_own_data(cfg, args.opts)
            if assumed:
                logger.info("Not given, so set for data of your own:\n  %s", "\n  ".join(assumed))
    else:
        register_datasets(cfg, training=not args.eval_only)
    cfg.TRACKER.NAMES = [*cfg.TRACKER.NAMES, *(getattr(args, "tracker", None) or ())]
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    # A run's own checkpoint may be of another arithmetic than the file that the run began with.
    last = find_last(cfg.OUTPUT_DIR) if args.resume else ""
    cfg = apply_checkpoint_settings(cfg, training=not args.eval_only, weights=last)
    cfg.freeze()
    check_config(cfg, train=not args.eval_only)
    check_datasets(cfg, training=not args.eval_only)
    try:
        if comm.is_main_process() and not args.eval_only:
            _take_folder(cfg.OUTPUT_DIR, args.resume, getattr(args, "overwrite", False))
        comm.synchronize()
        with _kept(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), args.eval_only):
            # As default_setup does, whose loggers then exist before it writes to them.
            setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fvcore")
            setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank())
            quiet_screen()
            default_setup(cfg, args)
            set_float32_precision(cfg)
    except OSError as error:
        raise OSError(
            error.errno, f"Cannot write to OUTPUT_DIR: {error.strerror}", cfg.OUTPUT_DIR
        ) from error
    setup_logger(
        cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hrnet_d2", configure_stdout=False
    )
    if cfg.MODEL.DEVICE == "cpu":
        limit_cpu_threads()
    return cfg


def _take_folder(folder: str, resume: bool, overwrite: bool) -> None:
    run_folder.claim(folder)
    if overwrite and not resume:
        run_folder.clear(folder)
    elif not resume:
        run_folder.refuse_earlier_run(folder)


@contextlib.contextmanager
def _kept(path: str, keep: bool) -> Iterator[None]:
    """Evaluating in the folder of a training leaves the training's config there."""
    before = Path(path).read_bytes() if keep and os.path.isfile(path) else None
    yield
    if before is not None and comm.is_main_process():
        with atomic_write(path) as part:
            Path(part).write_bytes(before)


def register_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Register what ``DATASETS.OWN`` says of the datasets that are needed."""
    needed = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if training else cfg.DATASETS.TEST
    register_from_config(cfg, needed)
