"""The findings about a dataset as one HTML page, with plots drawn as SVG."""

from collections import Counter
from html import escape
from pathlib import Path

import numpy as np

from hrnet_d2.file_io import atomic_write

from .summary import Contents, Inspection

__all__ = ["write_page"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d8dee4; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.bad { color: #a40e26; } .good { color: #116329; } .warn { color: #7d4e00; }
li { white-space: pre-wrap; overflow-wrap: anywhere; } svg { display: block; margin: .5rem 0 1rem; }
svg text { font: 12px system-ui, sans-serif; fill: #1b1f24; }
"""
ROW, LABEL, WIDTH = 20, 190, 760  # pixels of bar charts
HISTOGRAM_BARS = 20


def write_page(path: Path, title: str, inspection: Inspection) -> None:
    """Write the page, which needs no other file.

    Args:
        path: the file to write.
        title: what was inspected.
        inspection: the findings.

    Raises:
        OSError: if the file cannot be written.
    """
    problems = sum(map(len, inspection.problems.values()))
    verdict = (
        f'<p class="bad"><b>{problems} problem{"s" * (problems != 1)} found</b></p>'
        if problems
        else '<p class="good"><b>No problem found</b></p>'
    )
    parts = [f"<h1>{escape(title)}</h1>", verdict]
    parts += [_list("Problems", inspection.problems, "bad")]
    parts += [_list("Warnings", inspection.warnings, "warn")]
    if inspection.contents:
        parts.append(_table(inspection.contents))
    for name, contents in inspection.contents.items():
        parts.append(_section(name or "all", contents))
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )
    with atomic_write(path) as part:
        Path(part).write_text(text, encoding="utf-8")


def _list(title: str, entries: dict[str, list[str]], kind: str) -> str:
    if not entries:
        return ""
    items = [
        f"<li><b>{escape(name or 'all')}</b>: {escape(text)}</li>"
        for name, texts in entries.items()
        for text in texts
    ]
    return f'<h2 class="{kind}">{title}</h2><ul>{"".join(items)}</ul>'


def _table(contents: dict[str, Contents]) -> str:
    heads = ["", "images", "without objects", "objects", "with a segmentation", "groups (crowds)"]
    heads += ["objects an image", "most in one image"]
    rows = [
        f"<tr><td>{escape(name or 'all')}</td>"
        + "".join(
            f"<td>{value}</td>"
            for value in (
                *(c.images, c.empty, c.objects, c.segmented, c.crowds),
                f"{c.objects / max(c.images, 1):.1f}",
                max(c.per_image, default=0),
            )
        )
        + "</tr>"
        for name, c in contents.items()
    ]
    head = "".join(f"<th>{h}</th>" for h in heads)
    return f"<h2>Summary</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _section(name: str, contents: Contents) -> str:
    by_class = [(label, count, f"{count} in {images} images") for label, count, images in
                sorted(contents.classes, key=lambda c: -c[1])]  # fmt: skip
    sizes = [
        (label, count, f"{count} ({100 * count / max(contents.objects, 1):.0f} %)")
        for label, count in contents.sizes.items()
    ]
    common = Counter(contents.image_sizes).most_common(12)
    shapes = [(f"{w} x {h}", count, str(count)) for (w, h), count in common]
    parts = [
        f"<h2>{escape(name)}</h2><h3>Objects of each class</h3>{_bars(by_class)}",
        "<h3>Objects by area: small is below 32 x 32 pixels, large from 96 x 96 on</h3>",
        _bars(sizes),
        f"<h3>Images by number of objects</h3>{_bars(_histogram(contents.per_image))}",
        f"<h3>Most frequent image sizes (width x height)</h3>{_bars(shapes)}",
    ]
    if contents.crowded:
        rows = [f"<li>{escape(file)}: {count}</li>" for file, count in contents.crowded[:20]]
        parts.append(
            f"<h3>{len(contents.crowded)} images with more than 100 objects</h3>"
            f"<ul>{''.join(rows)}</ul>"
        )
    return "".join(parts)


def _histogram(values: list[int]) -> list[tuple[str, int, str]]:
    if not values:
        return []
    step = max(1, -(-(max(values) + 1) // HISTOGRAM_BARS))
    counts = np.bincount(np.array(values) // step)
    return [
        (str(i * step) if step == 1 else f"{i * step} to {(i + 1) * step - 1}", int(n), str(n))
        for i, n in enumerate(counts)
    ]


def _bars(rows: list[tuple[str, int, str]]) -> str:
    """Horizontal bars: label, value and what is written beside the bar."""
    if not rows:
        return "<p>none</p>"
    most = max((value for _, value, _ in rows), default=0) or 1
    room = WIDTH - LABEL - 150
    drawn = []
    for i, (label, value, text) in enumerate(rows):
        y = i * ROW
        length = round(room * value / most, 1)
        short = label if len(label) <= 28 else label[:27] + "\u2026"
        drawn.append(
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(short)}</text>'
            f'<rect x="{LABEL}" y="{y + 3}" width="{length}" height="{ROW - 6}" fill="#2f6fb3"/>'
            f'<text x="{LABEL + length + 6}" y="{y + 14}">{escape(text)}</text>'
        )
    return (
        f'<svg width="{WIDTH}" height="{len(rows) * ROW}" role="img" '
        f'viewBox="0 0 {WIDTH} {len(rows) * ROW}">{"".join(drawn)}</svg>'
    )
