"""The page: one HTML file with its style, its script and its data inside."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hrnet_d2 import pages

from .analysis import Analysis
from .curves import BINS
from .errors import KINDS
from .inputs import Truth
from .metrics import HEADLINE

__all__ = ["build_page"]

# In the order in which they are joined, after those of all pages.
SCRIPTS = ("core.js", "charts.js", "tables.js", "gallery.js", "main.js")
STYLES = ("page.css",)


def build_page(
    truth: Truth,
    runs: Sequence[tuple[str, dict[str, Analysis]]],
    gallery: dict[str, Any],
    comparison: dict[str, Any],
    title: str,
) -> str:
    """The HTML of the report.

    The page may run its own script only and load nothing, by its content security policy; class and
    file names are text for it, whatever is in them.

    Args:
        truth: the objects.
        runs: one or two (name, analysis by task).
        gallery: of :func:`.gallery.build_gallery`.
        comparison: of :func:`.summary.compare`, by task; empty for one run.
        title: of the page.
    """
    data = {
        "title": title,
        "classes": truth.class_names,
        "objects": truth.objects.tolist(),
        "images": truth.file_names,
        "crowds": int(truth.crowd.sum()),
        "kinds": KINDS,
        "headline": HEADLINE,
        "runs": [
            {"name": name, "tasks": {task: _run(a) for task, a in analyses.items()}}
            for name, analyses in runs
        ],
        "comparison": comparison,
        "gallery": gallery["images"],
    }
    page = pages.build_page(
        __package__,
        STYLES,
        SCRIPTS,
        texts={"TITLE": title},
        data={"DATA": data, "PICTURES": gallery["pictures"]},
        sources="img-src data:",
    )
    return page.html


def _run(analysis: Analysis) -> dict[str, Any]:
    """What the script needs of a run; its numbers are rounded to what a page can show."""
    counts, metrics = analysis.counts, analysis.metrics
    never = np.bincount(
        analysis.truth.cls[analysis.errors.missed], minlength=len(analysis.truth.class_ids)
    )
    return {
        "detections": len(analysis.detections),
        "metrics": _rounded(metrics.headline),
        "byClass": [
            _rounded(values | {"threshold": best["threshold"], "f1": best["f1"]})
            for values, best in zip(metrics.by_class, analysis.best_by_class, strict=True)
        ],
        "curves": {name: np.round(c, 4).tolist() for name, c in metrics.curves.items()},
        "bins": BINS,
        "true": counts.true.tolist(),
        "false": counts.false.tolist(),
        "score": np.round(counts.score, 3).tolist(),
        "kinds": counts.kinds.tolist(),
        "never": never.tolist(),
        "cost": _rounded(analysis.errors.cost),
        "ap50": _rounded({"ap50": analysis.errors.ap50})["ap50"],
        "confusion": analysis.confusion,
        "bySize": [_rounded(row) for row in metrics.by_size],
        "byCrowding": [_rounded(row) for row in metrics.by_crowding],
        "threshold": analysis.threshold,
        "ece": analysis.calibration["ece"],
        "byImage": {name: array.tolist() for name, array in analysis.by_image().items()},
    }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Floats with six digits; nan, which JSON has not, as None."""
    return {
        key: (round(value, 6) if np.isfinite(value) else None)
        if isinstance(value, float)
        else value
        for key, value in values.items()
    }
