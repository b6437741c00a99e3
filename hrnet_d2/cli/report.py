"""``hrnet-d2 report``: a page that shows what a detector does, from results and annotations."""

import argparse
import logging

from detectron2.utils.logger import setup_logger

from hrnet_d2.evaluation.report import write_report

__all__ = ["main"]


def main(args: argparse.Namespace, prog: str) -> int:
    """Write the report and say where it is."""
    setup_logger(name="hrnet_d2").setLevel(logging.WARNING)
    files = write_report(
        args.results,
        args.annotations,
        args.output,
        images=args.images,
        against=args.against,
        title=args.title,
        max_images=args.max_images,
    )
    print(f"{files.html}\n{files.metrics}\n{files.markdown}")
    return 0
