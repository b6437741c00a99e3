#!/usr/bin/env python
"""Write MODEL_ZOO.md and README.md's table of models from hrnet_d2/model_zoo.json.

python tools/build_model_zoo.py           writes them
python tools/build_model_zoo.py --check   exits with 1 where one is not up to date
"""

import argparse
import sys
from pathlib import Path, PurePosixPath

from hrnet_d2 import model_zoo

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "MODEL_ZOO.md"
README = ROOT / "README.md"
MARKERS = ("<!-- models:begin -->\n", "<!-- models:end -->")
WIDTHS = ("w18", "w32", "w40", "w48")
TITLES = {
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "cascade_rcnn": "Cascade R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "htc": "Hybrid Task Cascade",
    "fcos": "FCOS",
}
INTRODUCTION = """\
# Model zoo

Written by `python tools/build_model_zoo.py` from `hrnet_d2/model_zoo.json`: change that, not this.

The models of MMDetection's HRNet table. Each config is named as MMDetection names its checkpoint,
and takes that file as it is:

```python
from hrnet_d2 import model_zoo

model_zoo.list_models("fcos*")  # names
cfg = model_zoo.get_config("faster_rcnn_hrnetv2p_w18_1x_coco", trained=True)  # sets MODEL.WEIGHTS
model = model_zoo.get("mask_rcnn_hrnetv2p_w32_2x_coco", trained=True)  # downloads and loads
```

**The numbers are the publisher's, not measured here**: AP on COCO val 2017 by the code that trained
the weights, memory of training with two images (FCOS: four) on each GPU, images a second of
inference on one V100, first as published with the weights, then as measured again with later
software. Where a source is given as 1.x, the number is of another arithmetic and stands for
orientation; no checkpoint is given with it. MMDetection's table of 2020 writes "W48" on some rows
whose files are W40: they are listed as what they are. Files of the first host are fetched from
download.openmmlab.com where it does not answer. The eight hexadecimal digits that end a file's name
begin its SHA-256, and are checked.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for folder, title in TITLES.items():
        names = model_zoo.list_models(f"{folder}/*")
        parts.append(f"## {title}\n\n{_table([model_zoo.info(name) for name in names])}")
    notes = "\n".join(f"- **{key}**: {text}." for key, text in model_zoo.sources().items())
    parts.append(f"## Sources\n\n{notes}\n")
    return "\n".join(parts)


def render_readme() -> str:
    """README.md with its table of models as the data say."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(MARKERS[0])
    _, tail = rest.split(MARKERS[1])
    return head + MARKERS[0] + _summary() + MARKERS[1] + tail


def _summary() -> str:
    """A row for each family and schedule, a column for each width, box AP (and mask AP)."""
    cells = {}
    for name in model_zoo.list_models():
        row = model_zoo.info(name)
        family, _, stem = row["config"].partition("/")
        width = next((w for w in WIDTHS if f"_{w}_" in stem), "other")
        schedule = stem.removesuffix("_coco.yaml").rpartition("_")[2]
        if "mstrain" in stem:
            schedule += ", multi-scale"
        aps = (row["box_ap"], row["mask_ap"])
        text = " / ".join(str(ap) for ap in aps if ap is not None) or "config only"
        if row["source"] == "mmdet-1.x":
            text += " ¹"
        if width == "other":
            cells[f"{TITLES[family]}, X-101-64x4d-FPN {schedule}"] = {"w18": text}
        else:
            cells.setdefault(f"{TITLES[family]} {schedule}", {})[width] = text
    lines = ["| model | W18 | W32 | W40 | W48 |", "| --- | :-: | :-: | :-: | :-: |"]
    for title, row in cells.items():
        if "X-101" in title:
            lines.append(f"| {title}: {row['w18']} | | | | |")
        else:
            lines.append(f"| {title} | " + " | ".join(row.get(w, "") for w in WIDTHS) + " |")
    return "\n".join(lines) + "\n"


def _table(rows: list) -> str:
    columns = [
        ("config", "---"),
        ("box AP", ":-:"),
        ("mask AP", ":-:"),
        ("memory (GB)", ":-:"),
        ("fps", ":-:"),
        ("fps later", ":-:"),
        ("source", "---"),
        ("checkpoint", "---"),
    ]
    lines = [[title for title, _ in columns], [line for _, line in columns]]
    for row in rows:
        config = f"[{PurePosixPath(row['config']).stem}](configs/{row['config']})"
        numbers = [row["memory_gb"], row["fps"], row["fps_later"], row["source"]]
        lines.append([config, row["box_ap"], row["mask_ap"], *numbers, _link(row["url"])])
        if later := row.get("later"):
            numbers = [None, None, None, later["source"]]
            lines.append(["- trained again", later["box_ap"], None, *numbers, _link(later["url"])])
    if all(row["mask_ap"] is None for row in rows):
        lines = [line[:2] + line[3:] for line in lines]
    text = ("| " + " | ".join("" if c is None else str(c) for c in line) + " |" for line in lines)
    return "\n".join(text) + "\n"


def _link(url: str | None) -> str | None:
    """A link whose text is the date and digest of the file."""
    return url and f"[{PurePosixPath(url).stem.rpartition('coco_')[2]}]({url})"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    pages = {TARGET: render(), README: render_readme()}
    stale = [p for p, page in pages.items() if not p.exists() or p.read_text("utf-8") != page]
    if args.check:
        for path in stale:
            print(f"{path.name} is not up to date: run tools/build_model_zoo.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")
    print(
        f"{len(model_zoo.list_models())} models; wrote {[p.name for p in stale] or 'nothing new'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
