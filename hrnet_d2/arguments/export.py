"""Arguments of ``hrnet-d2 export``."""

import argparse

from .choices import EXPORT_DTYPES, EXPORT_FORMATS

__all__ = ["parser"]

DESCRIPTION = """
Export a detector: the whole network with non-maximum suppression as one graph, its settings, and a
program that runs it without PyTorch (ONNX, OpenVINO). The export is compared with the model before
the folder is written; the exit status is 1 if they disagree.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    found.add_argument("weights", metavar="WEIGHTS", help="file or URL, of any supported format")
    found.add_argument("--output", required=True, help="folder to write")
    found.add_argument("--format", choices=EXPORT_FORMATS, default="onnx")
    found.add_argument(
        "--dtype",
        choices=EXPORT_DTYPES,
        default="float32",
        help="of the layers (onnx, torchscript, pt2); openvino: float16 weights, or computing in "
        "bfloat16 (default float32); int8: see --calibrate",
    )
    found.add_argument(
        "--config-file",
        default="",
        help="a path, or a name of the model zoo; default: the config that the checkpoint brings",
    )
    found.add_argument(
        "--image", help="compare export and model on this image; default: a drawn one"
    )
    found.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="images of the kind that the detector will see: quantize to int8 on them (openvino)",
    )
    found.add_argument(
        "--keep",
        nargs="+",
        default=[],
        metavar="NAME",
        help="parts of names of layers that --calibrate leaves in float32",
    )
    found.add_argument(
        "--evaluate",
        action="store_true",
        help="also compare the AP of export and model on DATASETS.TEST; status 1 if more than 1 "
        "point is lost",
    )
    found.add_argument(
        "--compile-backbone",
        action="store_true",
        help="with pt2: also compile backbone and neck by AOTInductor, for C++",
    )
    found.add_argument(
        "--overwrite", action="store_true", help="replace an exported detector in the folder"
    )
    found.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE of configs")
    return found
