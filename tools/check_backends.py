#!/usr/bin/env python
"""Hold every reference case through what can run a Predictor, in float32.

python tools/check_backends.py run               exits with 1 if a case falls short
python tools/check_backends.py write             docs/exactness.md from the JSON
python tools/check_backends.py write --check     exits with 1 if it is out of date

A case holds if at least 98 of 100 detections have their counterpart in what MMDetection computed
(same class, IoU > 0.99, scores within 2e-3) and the masks of these an IoU above 0.98; see
tests/reference/README.md. "plain" is the network without MODEL.OPTIMIZE; the others are values of
MODEL.OPTIMIZE.BACKEND. Results go to benchmarks/reference_backends.json, each with the command and
the processor; those of cases and backends that were not run stay. Exports are held by
tools/build_export_matrix.py.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULT = ROOT / "benchmarks" / "reference_backends.json"
PAGE = ROOT / "docs" / "exactness.md"
MARKERS = ("<!-- reference-backends:begin -->\n", "<!-- reference-backends:end -->")
BACKENDS = ("plain", "torch", "openvino", "inductor")
MATCHED, MASK_IOU = 0.98, 0.98


def hold(name: str, backend: str) -> dict:
    """What came of a case with one backend."""
    from hrnet_d2 import Predictor
    from tests.export.models import case_config
    from tests.parity import load_case

    case = load_case(name)
    with tempfile.TemporaryDirectory() as folder:
        cfg = case_config(name, Path(folder))
        cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST = case.spec["scale"]
        if backend != "plain":
            cfg.MODEL.OPTIMIZE.BACKEND = backend
        found = Predictor(cfg, optimize=backend != "plain")(case.image)["instances"]
    return {"case": name, "backend": backend} | against_reference(case, found)


def against_reference(case: Any, found: Any) -> dict:
    """How many detections match the case's, and how far these are apart.

    Args:
        case: a reference case.
        found: Instances in its photograph.
    """
    from tests.parity import mask_ious, match_detections

    arrays = case.arrays
    pairs = match_detections(case, found)
    expected, made = (list(rows) for rows in zip(*pairs, strict=True)) if pairs else ([], [])
    boxes = arrays["pred_boxes"][expected] - found.pred_boxes.tensor.numpy()[made]
    scores = arrays["pred_scores"][expected] - found.scores.numpy()[made]
    row = {
        "expected": len(arrays["pred_boxes"]),
        "made": len(found),
        "matched": len(pairs),
        "box": float(abs(boxes).max(initial=0)),
        "score": float(abs(scores).max(initial=0)),
    }
    holds = len(pairs) >= MATCHED * row["expected"]
    if "pred_masks_packed_first20" in arrays:
        row["mask_iou"] = min(mask_ious(case, found, pairs), default=0.0)
        holds = holds and row["mask_iou"] > MASK_IOU
    return row | {"holds": holds}


def run(names: list[str], backends: list[str]) -> int:
    """The status: 1 if a case falls short. The JSON is written after every case."""
    where = provenance()
    rows = json.loads(RESULT.read_text("utf-8"))["rows"] if RESULT.exists() else []
    failed = 0
    for name in names:
        for backend in backends:
            row = hold(name, backend)
            print(json.dumps(row), flush=True)
            failed += not row["holds"]
            rows = [r for r in rows if (r["case"], r["backend"]) != (name, backend)]
            rows.append(row | where)
            save(rows, RESULT)
    return int(failed > 0)


def provenance() -> dict:
    """The command and the processor, which each row is stored with."""
    from hrnet_d2.benchmark.measuring import environment

    found = environment("cpu")
    return {
        "command": shlex.join(["python", *sys.argv]),
        "processor": f"{found['processor']} ({found['instructions']})",
    }


def save(rows: list[dict], path: Path) -> None:
    from hrnet_d2.file_io import atomic_write

    with atomic_write(str(path)) as part:
        Path(part).write_text(json.dumps({"rows": rows}, indent=1) + "\n", "utf-8")


def table(rows: list[dict]) -> str:
    """A line for each case, in Markdown."""
    by_cell = {(row["case"], row["backend"]): row for row in rows}
    backends = [b for b in BACKENDS if any(b == row["backend"] for row in rows)]
    lines = ["| case | " + " | ".join(backends) + " |", "| --- |" + " --- |" * len(backends)]
    for case in dict.fromkeys(row["case"] for row in rows):
        cells = [cell(by_cell.get((case, backend))) for backend in backends]
        lines.append(f"| `{case.removeprefix('mmdet1/')}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(row: dict | None) -> str:
    """How far apart, and how many match if not all do."""
    if row is None:
        return ""
    mark = "✓" if row["holds"] else "✗"
    text = f"{mark} {row['box']:.0e} px"
    if row["matched"] < row["expected"]:
        text = f"{mark} {row['matched']}/{row['expected']}, {row['box']:.0e} px"
    return f"{text}, {row['mask_iou']:.3f}" if "mask_iou" in row else text


def write(page: Path, markers: tuple[str, str], content: str, check: bool) -> int:
    """Put ``content`` between the markers of a page.

    Returns:
        0; with ``check``, which writes nothing, 1 if it is not what stands there.
    """
    text = page.read_text(encoding="utf-8")
    start, end = (text.index(marker) for marker in markers)
    wanted = f"{text[: start + len(markers[0])]}\n{content.rstrip()}\n\n{text[end:]}"
    if check:
        return int(wanted != text)
    page.write_text(wanted, encoding="utf-8")
    return 0


def main() -> int:
    from tests.export.models import CASES, MMDET1_CASES, OTHER_CASES

    names = [*CASES, *OTHER_CASES, *MMDET1_CASES]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=["run", "write"])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS[:3])
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.task == "write":
        content = table(json.loads(RESULT.read_text("utf-8"))["rows"])
        return write(PAGE, MARKERS, content, args.check)
    return run(args.cases, args.backends)


if __name__ == "__main__":
    sys.exit(main())
