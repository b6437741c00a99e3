"""Arguments of ``hrnet-d2 convert``."""

import argparse

__all__ = ["parser"]

DESCRIPTION = """
Convert a checkpoint of MMDetection, official HRNet, timm or torchvision to this package's names.
Prints what became of every tensor. DST (tensors only) is written if all of them are accounted for;
otherwise the exit status is 1.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    found.add_argument("source", metavar="SRC", help="file or URL, of any supported format")
    found.add_argument("target", metavar="DST", help=".pth or .safetensors to write")
    found.add_argument("--config", help="name in the zoo, or file, of the model that it must fit")
    found.add_argument("--quiet", action="store_true", help="only the summary")
    found.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE of configs")
    return found
