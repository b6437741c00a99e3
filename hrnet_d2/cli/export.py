"""``hrnet-d2 export WEIGHTS``: a folder that other runtimes run without this package."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hrnet_d2 import model_zoo
from hrnet_d2.data import read_image
from hrnet_d2.export import DTYPES, FORMATS, export
from hrnet_d2.export.checking import check_images
from hrnet_d2.export.folder import refuse_existing
from hrnet_d2.export.settings import check_options

__all__ = ["main"]

DESCRIPTION = """
Export a detector: the whole network with non-maximum suppression as one graph, its settings, and a
program that runs it without PyTorch (ONNX, OpenVINO). The export is compared with the model before
the folder is written; the exit status is 1 if they disagree.
"""


def main(arguments: Sequence[str], prog: str) -> int:
    """Export, compare, and return 0."""
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("weights", metavar="WEIGHTS", help="file or URL, of any supported format")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--format", choices=list(FORMATS), default="onnx")
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="float32",
        help="of the layers (onnx, torchscript, pt2); openvino: float16 weights, or computing in "
        "bfloat16 (default float32)",
    )
    parser.add_argument(
        "--config-file",
        default="",
        help="a path, or a name of the model zoo; default: the config that the checkpoint brings",
    )
    parser.add_argument(
        "--image", help="compare export and model on this image; default: a drawn one"
    )
    parser.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="images of the kind that the detector will see: quantize to int8 on them (openvino)",
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        default=[],
        metavar="NAME",
        help="parts of names of layers that --calibrate leaves in float32",
    )
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="also compare the AP of export and model on DATASETS.TEST; status 1 if more than 1 "
        "point is lost",
    )
    parser.add_argument(
        "--compile-backbone",
        action="store_true",
        help="with pt2: also compile backbone and neck by AOTInductor, for C++",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an exported detector in the folder"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE of configs")
    args = parser.parse_args(arguments)
    check_options(
        args.format,
        args.dtype,
        calibrate=args.calibrate is not None,
        keep=bool(args.keep),
        compile_backbone=args.compile_backbone,
    )
    refuse_existing(Path(args.output), args.overwrite)
    images = check_images(read_image(args.image)) if args.image else None
    cfg = model_zoo.load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
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
