"""From command-line arguments to a frozen config and a process that is ready to run it."""

import argparse
import logging
import os

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.config import add_hrnet_config
from hrnet_d2.data import configure_custom_data

from .launch import limit_cpu_threads

__all__ = ["argument_parser", "available_device", "device_of", "load_config", "setup"]

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and own data by path."""
    parser = default_argument_parser()
    own = parser.add_argument_group("own data (COCO JSON)")
    pair = {"nargs": 2, "metavar": ("JSON", "IMAGES")}
    own.add_argument("--train-data", **pair, help="annotations and image folder to train on")
    own.add_argument("--val-data", **pair, help="annotations and image folder to evaluate on")
    own.add_argument(
        "--train-sem-seg", metavar="DIR", help="folder of stuff maps of the training images (HTC)"
    )
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """Make this process ready: Detectron2's set-up (folder, logs, seed), and this package's log.

    Args:
        args: of :func:`argument_parser`.

    Returns:
        The config of :func:`load_config`, which says what it raises.
    """
    # First, so that what the config has to say reaches the screen; again below, for the file.
    setup_logger(distributed_rank=comm.get_rank(), name="hrnet_d2")
    cfg = load_config(args)
    default_setup(cfg, args)
    setup_logger(
        cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hrnet_d2", configure_stdout=False
    )
    if cfg.MODEL.DEVICE == "cpu":
        limit_cpu_threads()
    return cfg


def load_config(args: argparse.Namespace) -> CfgNode:
    """The config of ``args`` with own data registered and applied, frozen.

    Args:
        args: of :func:`argument_parser`. ``config_file`` may be a path or a name of the model zoo.

    Raises:
        RuntimeError: where there is neither such a file nor such a model.
        ValueError: where own data do not fit (see :func:`hrnet_d2.data.configure_custom_data`).
    """
    cfg = _merge(args)
    if args.train_data or args.val_data:
        configure_custom_data(cfg, args.train_data, args.val_data, args.train_sem_seg)
        dataset = (cfg.DATASETS.TRAIN or cfg.DATASETS.TEST)[0]
        cfg.DATASETS.CLASS_NAMES = list(MetadataCatalog.get(dataset).thing_classes)
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    cfg = apply_checkpoint_settings(cfg, training=not args.eval_only)
    cfg.freeze()
    return cfg


def device_of(args: argparse.Namespace) -> str:
    """The device that :func:`load_config` would choose, without touching any data."""
    return available_device(_merge(args).MODEL.DEVICE)


def _merge(args: argparse.Namespace) -> CfgNode:
    cfg = get_cfg()
    add_hrnet_config(cfg)
    weights = dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.WEIGHTS")
    if not args.config_file and weights and args.eval_only:
        cfg = model_zoo.config_from_checkpoint(weights, keep=True)
    if args.config_file:
        if not os.path.exists(args.config_file):
            args.config_file = model_zoo.get_config_file(args.config_file)
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg


def available_device(device: str) -> str:
    """``device``, or "cpu" (and a warning) where it is a GPU that is not there."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s but there is no GPU: using cpu", device)
        return "cpu"
    return device
