"""``hrnet-d2 report``: a page that shows what a detector does, from results and annotations."""

import argparse
import logging
from collections.abc import Sequence

from detectron2.utils.logger import setup_logger

from hrnet_d2.evaluation.report import write_report

__all__ = ["main"]

DESCRIPTION = """
Write a page that shows what a detector gets right and wrong: AP by class and size, thresholds,
kinds of mistakes, and the images. One HTML file without a server, FILE.metrics.json and FILE.md.
`hrnet-d2 eval --report` writes it after an evaluation.
"""


def main(arguments: Sequence[str], prog: str) -> int:
    """Write the report and say where it is."""
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("results", metavar="RESULTS", help="COCO results (JSON) of an evaluation")
    parser.add_argument(
        "--annotations", metavar="JSON", required=True, help="annotations of the images"
    )
    parser.add_argument("--images", metavar="FOLDER", help="the images; without it boxes alone")
    parser.add_argument(
        "--against", metavar="RESULTS", help="results of another run on the same images to compare"
    )
    parser.add_argument("--output", metavar="FILE.html", required=True, help="the page to write")
    parser.add_argument("--title", help="of the page; default: names of the files")
    parser.add_argument(
        "--max-images", type=_count, default=300, help="in the gallery (default 300)"
    )
    args = parser.parse_args(arguments)
    if not args.output.lower().endswith((".html", ".htm")):
        parser.error(f"--output {args.output} is no HTML file: name it FILE.html")
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


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of images")
    return value
