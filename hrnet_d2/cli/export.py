"""``hrnet-d2 export WEIGHTS``: a folder that other runtimes run without this package."""

import argparse
from pathlib import Path

from hrnet_d2 import model_zoo
from hrnet_d2.config_file import with_weights
from hrnet_d2.data import read_image
from hrnet_d2.export import export
from hrnet_d2.export.checking import check_images
from hrnet_d2.export.folder import refuse_existing
from hrnet_d2.export.settings import check_options

__all__ = ["main"]


def main(args: argparse.Namespace, prog: str) -> int:
    """Export, compare, and return 0."""
    options = with_weights(args.opts, args.weights)
    check_options(
        args.format,
        args.dtype,
        calibrate=args.calibrate is not None,
        keep=bool(args.keep),
        compile_backbone=args.compile_backbone,
    )
    refuse_existing(Path(args.output), args.overwrite)
    images = check_images(read_image(args.image)) if args.image else None
    cfg = model_zoo.load_config(args.config_file, options)
    export(
        cfg,
        args.output,
        format=args.format,
        dtype=args.dtype,
        overwrite=args.overwrite,
        images=images,
        calibrate=args.calibrate,
        keep=args.keep,
        evaluate=args.evaluate,
        compile_backbone=args.compile_backbone,
    )
    return 0
