"""From command-line arguments to a frozen config and a process that is ready to run it."""

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hrnet_d2 import model_zoo
from hrnet_d2.arguments.train import parser as argument_parser
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

__all__ = ["argument_parser", "register_datasets", "setup"]

logger = logging.getLogger(__name__)


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
            quiet_screen(training=not args.eval_only)
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
