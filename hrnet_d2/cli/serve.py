"""``hrnet-d2 serve MODEL``: a live page, and detections by ``POST /predict``."""

import argparse
import logging
import threading
import webbrowser
from typing import TYPE_CHECKING

from detectron2.utils.logger import setup_logger

from hrnet_d2.config_file import ConfigError

if TYPE_CHECKING:
    from hrnet_d2.serving import Limits, Model

__all__ = ["main"]

EXTRA = "hrnet_d2[serve]"


def main(args: argparse.Namespace, prog: str) -> int:
    """Serve until Ctrl-C or SIGTERM, then return 0."""
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
        model = load_model(
            args.model,
            args.config_file,
            args.opts,
            batch_size=limits.batch_size,
            trusted=args.trusted,
        )
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
