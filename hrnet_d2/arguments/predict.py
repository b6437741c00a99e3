"""Arguments of ``hrnet-d2 predict``."""

import argparse

__all__ = ["parser"]


def parser(prog: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog=prog, description="Draw a model's detections on images.")
    found.add_argument(
        "--config-file",
        default="",
        help="a path, or a name of the model zoo; default: the config that the checkpoint brings",
    )
    found.add_argument("--weights", help="short for --opts MODEL.WEIGHTS")
    found.add_argument("--input", nargs="+", required=True, help="images, or folders of images")
    found.add_argument("--output", required=True, help="folder for the drawn images")
    found.add_argument(
        "--confidence-threshold",
        type=_fraction,
        default=0.5,
        help="least score to draw (default 0.5)",
    )
    found.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs that override the config, such as MODEL.WEIGHTS checkpoint.pth",
    )
    return found


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no score: give a number from 0 to 1")
    return value
