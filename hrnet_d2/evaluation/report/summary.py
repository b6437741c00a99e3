"""The report for programs (``metrics.json``) and for a pull request (Markdown)."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .analysis import Analysis
from .errors import KINDS
from .inputs import Truth
from .metrics import HEADLINE

__all__ = ["SCHEMA", "compare", "markdown", "summarize"]

SCHEMA = "hrnet_d2.report/1"  # of the JSON file: raised if a key changes its meaning
TASK_NAMES = {"bbox": "Boxes", "segm": "Masks"}


def summarize(
    truth: Truth, runs: Sequence[tuple[str, dict[str, Analysis]]], title: str
) -> dict[str, Any]:
    """The content of ``metrics.json``; docs/evaluate.md describes its keys.

    Args:
        truth: the objects.
        runs: one or two (name, analysis by task); the first is the one that the report is about.
        title: of the report.
    """
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "title": title,
        "dataset": {
            "annotations": os.path.basename(truth.source),
            "images": len(truth.image_ids),
            "objects": int(truth.objects.sum()),
            "crowds": int(truth.crowd.sum()),
            "classes": len(truth.class_ids),
        },
        "runs": [
            {"name": name, "tasks": {task: _task(a) for task, a in analyses.items()}}
            for name, analyses in runs
        ],
    }
    if len(runs) == 2:
        (_, one), (_, other) = runs
        summary["comparison"] = {
            task: compare(one[task], other[task]) for task in one if task in other
        }
    return summary


def _task(analysis: Analysis) -> dict[str, Any]:
    truth, metrics = analysis.truth, analysis.metrics
    counts, all_counts = analysis.error_counts(), analysis.error_counts(everything=True)
    return {
        "detections": len(analysis.detections),
        "metrics": metrics.headline,
        "threshold": {"score": analysis.threshold, **analysis.best},
        "classes": [
            {
                "id": truth.class_ids[k],
                "name": truth.class_names[k],
                "objects": int(truth.objects[k]),
                "metrics": metrics.by_class[k],
                "best": analysis.best_by_class[k],
            }
            for k in range(len(truth.class_ids))
        ],
        "errors": {
            kind: {
                "count": counts[kind],
                "count_at_any_score": all_counts[kind],
                "cost_ap50": analysis.errors.cost[kind],
            }
            for kind in KINDS
        },
        "calibration": analysis.calibration,
        "by_size": metrics.by_size,
        "by_crowding": metrics.by_crowding,
        "confusion": {
            "labels": [*truth.class_names, "background"],
            "matrix": analysis.confusion_matrix().tolist(),
        },
    }


def compare(one: Analysis, other: Analysis) -> dict[str, Any]:
    """What is better and worse in ``one`` than in ``other``, each at its own threshold."""
    truth = one.truth
    mistakes = [a.by_image()["false"] + a.by_image()["lost"] for a in (one, other)]
    change = mistakes[0] - mistakes[1]
    real = ~truth.crowd
    return {
        "metrics": {
            name: _difference(one.metrics.headline[name], other.metrics.headline[name])
            for name in HEADLINE
        },
        "classes": [
            {"name": name, "AP": _difference(a["AP"], b["AP"])}
            for name, a, b in zip(
                truth.class_names, one.metrics.by_class, other.metrics.by_class, strict=True
            )
        ],
        "images": {
            "better": int((change < 0).sum()),
            "worse": int((change > 0).sum()),
            "same": int((change == 0).sum()),
        },
        "objects": {
            "gained": int((one.found & ~other.found & real).sum()),
            "lost": int((~one.found & other.found & real).sum()),
        },
    }


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def markdown(summary: dict[str, Any], most_classes: int = 40) -> str:
    """The summary as GitHub's Markdown.

    Args:
        summary: of :func:`summarize`.
        most_classes: rows of the table of classes, the lowest AP first if there are more.
    """
    data = summary["dataset"]
    lines = [
        f"## {_text(summary['title'])}",
        "",
        f"{data['images']:,} images, {data['objects']:,} objects of {data['classes']} classes "
        f"({_text(data['annotations'])}). AP in percent, as COCO defines it.",
    ]
    run, other = summary["runs"][0], (summary["runs"][1:] or [None])[0]
    for task, found in run["tasks"].items():
        compared = other["tasks"].get(task) if other else None
        lines += ["", f"### {TASK_NAMES[task]}", "", *_headline(run, found, other, compared)]
        if compared:
            change = summary["comparison"][task]
            images, objects = change["images"], change["objects"]
            lines += [
                "",
                f"Fewer mistakes in {images['better']:,} images, more in {images['worse']:,}, as "
                f"many in {images['same']:,}; {objects['gained']:,} objects newly found, "
                f"{objects['lost']:,} no longer.",
            ]
        lines += ["", *_errors(found)]
        lines += ["", *_classes(found, compared, most_classes)]
    return "\n".join(lines) + "\n"


def _headline(run: dict, found: dict, other: dict | None, compared: dict | None) -> list[str]:
    names = [name for name in HEADLINE if name not in ("AR1", "AR10")]
    rows = [[_text(run["name"]), *(_percent(found["metrics"][n]) for n in names)]]
    if other and compared:
        rows.append([_text(other["name"]), *(_percent(compared["metrics"][n]) for n in names)])
        changes = [_difference(found["metrics"][n], compared["metrics"][n]) for n in names]
        rows.append(["change", *(_percent(change, signed=True) for change in changes)])
    return _table(["", *names], rows)


def _errors(found: dict) -> list[str]:
    rows = [
        [kind, str(error["count"]), _percent(error["cost_ap50"])]
        for kind, error in sorted(found["errors"].items(), key=lambda e: -e[1]["cost_ap50"])
    ]
    score = found["threshold"]["score"]
    return _table(["mistake", f"count at scores from {score:.2f}", "costs AP50"], rows)


def _classes(found: dict, compared: dict | None, most: int) -> list[str]:
    chosen = range(len(found["classes"]))
    if len(chosen) > most:
        ap = [c["metrics"]["AP"] for c in found["classes"]]
        order = np.argsort([2.0 if value is None else value for value in ap], kind="stable")
        chosen = order[:most].tolist()
    columns = ["class", "objects", "AP", "AP50", "APs", "APm", "APl", "best score", "F1"]
    rows = []
    for k in chosen:
        entry, best = found["classes"][k], found["classes"][k]["best"]
        values = [_percent(entry["metrics"][name]) for name in ("AP", "AP50", "APs", "APm", "APl")]
        threshold = "" if best["threshold"] is None else f"{best['threshold']:.2f}"
        row = [_text(entry["name"]), str(entry["objects"]), *values, threshold]
        rows.append([*row, _percent(best["f1"])])
        if compared:
            before = compared["classes"][k]["metrics"]["AP"]
            rows[-1].insert(3, _percent(_difference(entry["metrics"]["AP"], before), signed=True))
    if compared:
        columns.insert(3, "change")
    return _table(columns, rows)


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _percent(value: float | None, *, signed: bool = False) -> str:
    return "" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"


def _text(text: str) -> str:
    """Text that neither Markdown nor HTML in it can change."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|#~!":
        text = text.replace(character, "\\" + character)
    return text
