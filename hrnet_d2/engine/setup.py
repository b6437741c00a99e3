"""From command-line arguments to a frozen config and a process that is ready to run it."""

import argparse
import logging

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.data import configure_custom_data

from .launch import limit_cpu_threads

__all__ = ["argument_parser", "available_device", "setup"]

logger = logging.getLogger(__name__)


EPILOG = """
Examples:

Run on single machine:
    $ {0} --num-gpus 8 --config-file cfg.yaml

Train on custom data in COCO format:
    $ {0} --config-file cfg.yaml --train-data train.json images/ --val-data val.json images/

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
    parser: argparse.ArgumentParser = default_argument_parser(EPILOG.format(prog))
    parser.prog = prog
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="short for MODEL.WEIGHTS FILE; without --config-file the checkpoint brings its config",
    )
    custom = parser.add_argument_group("custom data (COCO JSON)")
    for option, purpose in (("--train-data", "train on"), ("--val-data", "evaluate on")):
        custom.add_argument(
            option,
            nargs=2,
            metavar=("JSON", "IMAGES"),
            help=f"annotations and image folder to {purpose}",
        )
    custom.add_argument(
        "--train-sem-seg", metavar="DIR", help="folder of stuff maps of the training images (HTC)"
    )
    return parser


def setup(args: argparse.Namespace, cfg: CfgNode | None = None) -> CfgNode:
    """Make this process ready: Detectron2's setup (folder, logs, seed), and this package's log.

    Args:
        args: of :func:`argument_parser`. ``config_file`` may be a path or a name of the model zoo.
        cfg: the config of these arguments, if it has been read already; it stays as it is.

    Returns:
        The config with custom data registered and applied, frozen.

    Raises:
        ModelZooError: if there is neither such a config file nor such a model.
        ConfigError: if the file, a key or a value cannot be used.
        DatasetError: if custom data cannot be used (see
            :func:`hrnet_d2.data.configure_custom_data`).
    """
    # First, so that messages about the config reach the screen; again below, for the file.
    setup_logger(distributed_rank=comm.get_rank(), name="hrnet_d2")
    cfg = model_zoo.load_config(args.config_file, args.opts) if cfg is None else cfg.clone()
    cfg.defrost()
    if args.config_file:
        args.config_file = model_zoo.config_path(args.config_file)  # which Detectron2 logs
    if args.train_data or args.val_data:
        configure_custom_data(cfg, args.train_data, args.val_data, args.train_sem_seg)
        dataset = (cfg.DATASETS.TRAIN or cfg.DATASETS.TEST)[0]
        cfg.DATASETS.CLASS_NAMES = list(MetadataCatalog.get(dataset).thing_classes)
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    cfg = apply_checkpoint_settings(cfg, training=not args.eval_only)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(
        cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hrnet_d2", configure_stdout=False
    )
    if cfg.MODEL.DEVICE == "cpu":
        limit_cpu_threads()
    return cfg


def available_device(device: str) -> str:
    """``device``, or "cpu" (and a warning) if it is a GPU that is not there."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s but there is no GPU: using cpu", device)
        return "cpu"
    return device
