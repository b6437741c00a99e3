"""``hrnet-d2 browse``: what the network is trained on, as pictures."""

import argparse
from pathlib import Path

from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from hrnet_d2 import model_zoo
from hrnet_d2.config_check import check_config
from hrnet_d2.data import build_train_loader, check_datasets, configure_custom_data
from hrnet_d2.data.drawing import class_names_of, draw_input, write_picture

__all__ = ["main"]


def main(args: argparse.Namespace, prog: str) -> int:
    """Write images of training batches, after augmentation, with their boxes, masks and maps."""
    setup_logger(name="hrnet_d2")
    cfg = model_zoo.load_config(args.config_file, args.opts).clone()
    cfg.defrost()
    if args.train_data:
        configure_custom_data(
            cfg, args.train_data, args.val_data, args.train_sem_seg, val_fraction=args.val_fraction
        )
    check_config(cfg)
    check_datasets(cfg, training=True)
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    names = class_names_of(cfg)
    written = 0
    for batch in build_train_loader(cfg):
        for record in batch:
            picture = draw_input(
                record, cfg.INPUT.FORMAT, names, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
            )
            name = f"{written:04d}_{Path(record['file_name']).stem}.jpg"
            write_picture(folder / name, picture)
            written += 1
            if written == args.images:
                print(f"{written} images in {folder}")
                return 0
    return 0
