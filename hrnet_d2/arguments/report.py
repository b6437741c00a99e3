"""Arguments of ``hrnet-d2 report``."""

import argparse

__all__ = ["parser"]

DESCRIPTION = """
Write a page that shows what a detector gets right and wrong: AP by class and size, thresholds,
kinds of mistakes, and the images. One HTML file without a server, FILE.metrics.json and FILE.md.
`hrnet-d2 eval --report` writes it after an evaluation.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    found.add_argument("results", metavar="RESULTS", help="COCO results (JSON) of an evaluation")
    found.add_argument(
        "--annotations", metavar="JSON", required=True, help="annotations of the images"
    )
    found.add_argument("--images", metavar="FOLDER", help="the images; without it boxes alone")
    found.add_argument(
        "--against", metavar="RESULTS", help="results of another run on the same images to compare"
    )
    found.add_argument(
        "--output", metavar="FILE.html", type=_page, required=True, help="the page to write"
    )
    found.add_argument("--title", help="of the page; default: names of the files")
    found.add_argument(
        "--max-images", type=_count, default=300, help="in the gallery (default 300)"
    )
    return found


def _page(text: str) -> str:
    if not text.lower().endswith((".html", ".htm")):
        raise argparse.ArgumentTypeError(f"{text} is no HTML file: name it FILE.html")
    return text


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of images")
    return value
