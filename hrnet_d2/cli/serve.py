"""``hrnet-d2 serve MODEL``: a live page, and detections by ``POST /predict``."""

import argparse
import logging
import math
import threading
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detectron2.utils.logger import setup_logger

from hrnet_d2.config_file import ConfigError

if TYPE_CHECKING:
    from hrnet_d2.serving import Limits, Model

__all__ = ["main"]

EXTRA = "hrnet_d2[serve]"

DESCRIPTION = """
Serve a detector: a page to try it on images and the camera, and POST /predict for programs, which
takes an image and answers with COCO's JSON. /health and /metrics (Prometheus) are for operators.
Everything is on this machine; there are no passwords.
"""


def main(arguments: Sequence[str], prog: str) -> int:
    """Serve until Ctrl-C or SIGTERM, then return 0."""
    args = _parse(arguments, prog)
    try:
        from hrnet_d2.serving import create_app, load_model, server
    except ImportError as error:
        if EXTRA not in str(error):
            raise
        raise ConfigError(str(error)) from None
    limits = _limits(args)
    setup_logger(name="hrnet_d2").setLevel(logging.WARNING)
    taken = server.bind(args.host, args.port)
    try:
        model = load_model(args.model, args.config_file, args.opts, batch_size=limits.batch_size)
        _warm_up(model)
        app = create_app(model, limits, [args.host, *args.allow_host])
        url = server.url_of(taken)

        def started() -> None:
            print(f"{model.name} on {model.device}: {url} (Ctrl-C stops)", flush=True)
            if args.open:  # some browsers return only when they are closed
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        server.build_server(app, limits, started).run([taken])
    finally:
        taken.close()
    print("stopped", flush=True)
    return 0


def _warm_up(model: "Model") -> None:
    """The first image takes longer than others, and shows whether the model works."""
    import numpy as np

    model.detect([np.zeros((240, 320, 3), np.uint8)])


def _limits(args: argparse.Namespace) -> "Limits":
    from hrnet_d2.serving import Limits

    return Limits(
        image_bytes=round(args.max_megabytes * 1e6),
        image_pixels=round(args.max_megapixels * 1e6),
        body_bytes=round(max(args.upload_memory, args.max_megabytes + 1) * 1e6),
        requests=args.max_requests,
        batch_size=args.batch_size,
        upload_seconds=args.upload_seconds,
        answer_seconds=args.answer_seconds,
    )


def _parse(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a checkpoint (path or URL), a name of the model zoo, or a folder of hrnet-d2 export",
    )
    parser.add_argument(
        "--config-file",
        default="",
        help="a path, or a name of the model zoo; default: the config that the checkpoint brings",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="0: any (default 8000)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which the server is reached, beside localhost and addresses; '*': any. "
        "Can be given several times",
    )
    group = parser.add_argument_group("limits")
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
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs that override the config, such as MODEL.DEVICE cpu",
    )
    return parser.parse_args(arguments)


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
