"""From files of annotations and results to the report's files."""

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from hrnet_d2.data.cache import name_without_digest
from hrnet_d2.file_io import atomic_write

from .analysis import analyze
from .gallery import build_gallery
from .inputs import read_results, read_truth
from .page import build_page
from .summary import markdown, summarize

__all__ = ["ReportFiles", "write_report", "write_reports"]

logger = logging.getLogger(__name__)

MOST_IMAGES = 300  # in the gallery
HTML_SUFFIXES = (".html", ".htm")
RESULTS = "coco_instances_results.json"  # as Detectron2's evaluator names them
PREDICTIONS = "predictions.json"  # as `hrnet-d2 predict --format coco` does
EVALUATIONS = ("inference", "inference_TTA")  # folders of an output folder


@dataclass(frozen=True)
class ReportFiles:
    """What :func:`write_report` wrote."""

    html: Path
    metrics: Path
    markdown: Path
    summary: dict
    """The content of ``metrics``."""


def write_report(
    results: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    against: str | os.PathLike[str] | None = None,
    title: str | None = None,
    max_images: int = MOST_IMAGES,
    source: str | os.PathLike[str] | None = None,
) -> ReportFiles:
    """Write a report of an evaluation: a page, the numbers for programs, and Markdown.

    The page is one file that needs no server and no network. For FILE.html the others are
    FILE.metrics.json and FILE.md.

    Args:
        results: COCO results, as an evaluation writes them (``coco_instances_results.json``).
        annotations: the COCO annotations that they belong to.
        output: the HTML file to write; its folder is created.
        images: the folder of the images, for the gallery. Without it boxes are shown alone.
        against: results of another run on the same annotations, to compare with.
        title: of the page; default: names of the run and the annotations.
        max_images: in the gallery.
        source: the file that ``annotations`` is a completed copy of, which the report names.

    Raises:
        FileNotFoundError: if an input does not exist.
        DatasetError: if the annotations or results are invalid or do not belong together.
        ValueError: if ``output`` is not an HTML file, or ``max_images`` is negative.
    """
    output = Path(output)
    if output.suffix.lower() not in HTML_SUFFIXES:
        raise ValueError(f"The report is an HTML file: name it FILE.html, not {output.name}")
    if max_images < 0:
        raise ValueError(f"max_images is {max_images}, it cannot be negative")
    folder = None if images is None else Path(images)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"There is no folder of images {folder}")
    truth = read_truth(annotations)
    if source is not None:
        truth = replace(truth, source=str(source))
    names = _names([results] if against is None else [results, against])
    runs = []
    for path, name in names:
        detections = read_results(path, truth)
        runs.append((name, {task: analyze(truth, detections, task) for task in detections.tasks}))
    title = title or f"{names[0][1]} on {Path(truth.source).stem}"
    summary = summarize(truth, runs, title)
    gallery = build_gallery([analyses for _, analyses in runs], folder, max_images)
    page = build_page(truth, runs, gallery, summary.get("comparison", {}), title)
    files = ReportFiles(
        output, output.with_suffix(".metrics.json"), output.with_suffix(".md"), summary
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    texts = {files.html: page, files.metrics: numbers, files.markdown: markdown(summary)}
    for path, text in texts.items():
        with atomic_write(path) as part:
            Path(part).write_text(text, encoding="utf-8")
    logger.info("Report: %s (%.1f MB)", output, len(page) / 1e6)
    return files


def write_reports(cfg: CfgNode) -> list[ReportFiles]:
    """Write the report of an evaluation on ``cfg.DATASETS.TEST``, beside its results.

    Args:
        cfg: the config of the evaluation, which wrote its results below ``OUTPUT_DIR/inference``.

    Returns:
        The files of each dataset: ``OUTPUT_DIR/inference/DATASET/report.html`` and its companions.

    Raises:
        FileNotFoundError: if a dataset has no results.
        DatasetError: if its annotation file is invalid or has no annotations.
    """
    reports = []
    for name in cfg.DATASETS.TEST:
        folder = Path(cfg.OUTPUT_DIR) / "inference" / name
        metadata = MetadataCatalog.get(name)
        images = metadata.get("image_root")
        # Data given by path have a name with a hash, and perhaps a completed copy of their file.
        own = metadata.get("custom_data")
        source = name_without_digest(metadata.source[0]) if own else None
        reports.append(
            write_report(
                folder / RESULTS,
                PathManager.get_local_path(metadata.json_file),
                folder / "report.html",
                images=PathManager.get_local_path(images) if images else None,
                title=f"{_run_of(cfg)} on {Path(source).stem if source else name}",
                source=source,
            )
        )
    return reports


def _run_of(cfg: CfgNode) -> str:
    return Path(os.path.abspath(cfg.OUTPUT_DIR)).name


def _names(paths: list[str | os.PathLike[str]]) -> list[tuple[str | os.PathLike[str], str]]:
    """Short names of the results files that tell them apart."""
    runs = [_run_folder(Path(path).absolute()) for path in paths]
    parts = [run.parts for run in runs]
    if len(set(parts)) < len(parts):  # one run with and without test-time augmentation
        parts = [Path(path).absolute().with_suffix("").parts for path in paths]
    # Runs may have folders of the same name: then the folders around them differ.
    while len(parts) > 1 and all(p and p[-1] == parts[0][-1] for p in parts):
        if len(set(parts)) == 1:
            break
        parts = [p[:-1] for p in parts]
    names = [p[-1] if p else str(path) for p, path in zip(parts, paths, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names, 1)]
    return list(zip(paths, names, strict=True))


def _run_folder(results: Path) -> Path:
    """The folder that names a run: RUN of RUN/inference/DATASET/coco_instances_results.json; of
    other files with a usual name, their own; of others, the file without its suffix."""
    if results.name not in (RESULTS, PREDICTIONS):
        return results.with_suffix("")
    folder = results.parent
    return folder.parent.parent if folder.parent.name in EVALUATIONS else folder
