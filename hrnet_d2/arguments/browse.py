"""Arguments of ``hrnet-d2 browse``: those of training, and where to draw."""

import argparse

from . import train

__all__ = ["parser"]


def parser(prog: str) -> argparse.ArgumentParser:
    found = train.parser(prog)
    found.description = "Draw the images that training with the same arguments would use."
    found.add_argument(
        "--output", metavar="FOLDER", default="browse", help="where to write (default: browse)"
    )
    found.add_argument(
        "--images", type=_count, default=16, metavar="N", help="number of images (default: 16)"
    )
    return found


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
