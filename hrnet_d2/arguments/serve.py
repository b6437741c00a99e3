"""Arguments of ``hrnet-d2 serve``."""

import argparse
import math

__all__ = ["parser"]

DESCRIPTION = """
Serve a detector: a page to try it on images and the camera, and POST /predict for programs, which
takes an image and answers with COCO's JSON. /health and /metrics (Prometheus) are for operators.
Everything is on this machine; there are no passwords.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    found.add_argument(
        "model",
        metavar="MODEL",
        help="a checkpoint (path or URL), a name of the model zoo, or a folder of hrnet-d2 export",
    )
    found.add_argument(
        "--config-file",
        default="",
        help="a path, or a name of the model zoo; default: the config that the checkpoint brings",
    )
    found.add_argument(
        "--trusted",
        action="store_true",
        help="load a folder in the format torchscript or pt2, whose files may hold code that runs",
    )
    found.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)"
    )
    found.add_argument("--port", type=_port, default=8000, help="0: any (default 8000)")
    found.add_argument("--open", action="store_true", help="open the page in the browser")
    found.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which the server is reached, beside localhost and addresses; '*': any. "
        "Can be given several times",
    )
    group = found.add_argument_group("limits")
    for name, kind, default, text in (
        ("--batch-size", _count, 8, "images that run through the network at once"),
        ("--max-requests", _count, 256, "uploaded, waiting and running at once; more get 429"),
        ("--max-megabytes", _amount, 20, "of an image file; larger ones get 413"),
        ("--max-megapixels", _amount, 25, "of an image; larger ones get 413"),
        ("--upload-memory", _amount, 512, "megabytes of all image files at once; more get 429"),
        ("--upload-seconds", _amount, 30, "for an upload; slower ones get 408"),
        ("--answer-seconds", _amount, 60, "from an upload to its answer; later ones get 503"),
    ):
        group.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{text} (default {default})"
        )
    found.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs that override the config, such as MODEL.DEVICE cpu",
    )
    return found


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: give a number from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**6:
        raise argparse.ArgumentTypeError(f"{text} is no number: give one from 1")
    return int(text)


def _amount(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no amount: give a number above 0")
    return value
