#!/usr/bin/env python
"""Export every family in every format, and others in some, and write what came of it.

python tools/build_export_matrix.py run --bare PYTHON    exports, and writes the JSON
python tools/build_export_matrix.py write                docs/deploy.md from the JSON
python tools/build_export_matrix.py write --check        exits with 1 if it is out of date

``run`` needs the extras onnx, openvino and int8. PYTHON is an interpreter with NumPy, OpenCV,
onnxruntime and openvino and without torch; it runs the detector.py of the exported folders. The
weights are those of the reference cases, on a photograph at two sizes that the graph was not
recorded with. Exports in float32 are also held to the reference cases themselves, which
MMDetection computed. ``--cases`` and ``--columns`` (such as onnx-fp32) run some and keep the other
results; ``--missing`` leaves out what has a result, to go on where a run was stopped. The JSON is
written after every export, each with the command and the processor, so that several runs with other
cases may go side by side. What was never run is empty.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
from check_backends import against_reference, provenance, save, write  # noqa: E402

RESULT = ROOT / "benchmarks" / "export_matrix.json"
PAGE = ROOT / "docs" / "deploy.md"
MARKERS = ("<!-- export-matrix:begin -->\n", "<!-- export-matrix:end -->")
PHOTOS = ROOT / "tests" / "reference" / "images"
SIZE = (160, 256)
TITLES = {
    "faster_rcnn_hrnetv2p_w18": "Faster R-CNN W18",
    "mask_rcnn_w18": "Mask R-CNN W18",
    "cascade_rcnn_hrnetv2p_w18": "Cascade R-CNN W18",
    "cascade_mask_rcnn_hrnetv2p_w18": "Cascade Mask R-CNN W18",
    "htc_hrnetv2p_w18": "HTC W18",
    "fcos_hrnetv2p_w18": "FCOS W18",
}
# In FEW columns.
OTHERS = {
    "mask_rcnn_hrnetv2p_w32": "Mask R-CNN W32",
    "cascade_rcnn_w40": "Cascade R-CNN W40",
    "htc_w48": "HTC W48",
    "fcos_hrnetv2p_w48": "FCOS W48",
    "htc_x101_64x4d_fpn": "HTC ResNeXt-101",
    "faster_rcnn_w18_1_class": "Faster R-CNN W18, 1 class",
    "mask_rcnn_w18_3_classes": "Mask R-CNN W18, 3 classes",
    "htc_w18_3_classes": "HTC W18, 3 classes",
    "fcos_w18_1_class": "FCOS W18, 1 class",
    "faster_rcnn_w18_1000_classes": "Faster R-CNN W18, 1000 classes",
    "mmdet1/v1_faster_rcnn_w48": "Faster R-CNN W48, 1.x arithmetic",
    "mmdet1/v1_cascade_mask_rcnn_w18": "Cascade Mask R-CNN W18, 1.x arithmetic",
    "mmdet1/v1_htc_w18": "HTC W18, 1.x arithmetic",
    "mmdet1/v1_fcos_w48": "FCOS W48, 1.x arithmetic",
}
# Column, in the order in which one recorded graph serves them.
COLUMNS = [
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("openvino", "float16"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("pt2", "float32"),
    ("torchscript", "float32"),
    ("torchscript", "bfloat16"),
    ("onnx", "float16"),
    ("onnx", "bfloat16"),
    ("pt2", "bfloat16"),
]
FEW = [("onnx", "float32"), ("openvino", "float32")]
WITHOUT_TORCH = ("onnx", "openvino")
FORMATS = ("onnx", "openvino", "torchscript", "pt2")
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8"}


def chosen_cells(
    rows: list[dict], names: list[str], columns: list[tuple[str, str]], missing: bool
) -> dict[str, list[tuple[str, str]]]:
    """Those of the columns to run, by case; with ``missing`` those that have no row."""
    done = {key(row) for row in rows} if missing else set()
    chosen = {}
    for name in names:
        of_case = COLUMNS if name in TITLES else FEW
        chosen[name] = [c for c in of_case if c in columns and (name, *c) not in done]
    return {name: columns for name, columns in chosen.items() if columns}


def key(row: dict) -> tuple[str, str, str]:
    return row["case"], row["format"], row["dtype"]


def read_rows() -> list[dict]:
    rows: list[dict] = json.loads(RESULT.read_text("utf-8"))["rows"] if RESULT.exists() else []
    return rows


def run(bare: str, chosen: dict[str, list[tuple[str, str]]]) -> None:
    """Export what was chosen in place of its rows, and write the JSON after each export."""
    where = provenance()
    order = [(name, *column) for name in [*TITLES, *OTHERS] for column in COLUMNS]
    for name, columns in chosen.items():
        for row in run_case(name, columns, bare):
            others = [other for other in read_rows() if key(other) != key(row)]
            rows = sorted([*others, row | where], key=lambda row: order.index(key(row)))
            save(rows, RESULT)


def run_case(name: str, columns: list[tuple[str, str]], bare: str) -> Iterator[dict]:
    """A row for each of the columns, as it is done."""
    from hrnet_d2 import Predictor
    from hrnet_d2.data import read_image
    from hrnet_d2.export.checking import check_images
    from hrnet_d2.export.exporting import Source
    from hrnet_d2.export.settings import layers_dtype
    from tests.export.models import VARIANTS, case_config
    from tests.parity import load_case

    images = check_images(read_image(str(PHOTOS / "coffee.png")))
    with tempfile.TemporaryDirectory() as folder:
        cfg = case_config(name, Path(folder))
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = SIZE
        predictor = Predictor(cfg, optimize=False)
        sources: dict = {}
        for format, dtype in columns:
            start = time.perf_counter()
            layers = layers_dtype(format, dtype)
            if layers not in sources:
                sources.clear()
                sources[layers] = Source(predictor, layers)
            target = Path(folder) / "exported"
            row = {"case": name, "format": format, "dtype": dtype}
            case = load_case(name) if dtype == "float32" and name not in VARIANTS else None
            row |= run_one(sources[layers], target, format, dtype, images, bare, case)
            print(f"{time.perf_counter() - start:.0f} s: {json.dumps(row)}", flush=True)
            yield row
            shutil.rmtree(target, ignore_errors=True)


def run_one(
    source: Any, target: Path, format: str, dtype: str, images: list, bare: str, case: Any
) -> dict:
    """What came of one export; ``case`` is a reference case to hold it to, or None."""
    from hrnet_d2.export import ExportError, ExportMismatchError, load
    from hrnet_d2.export.exporting import write_export
    from hrnet_d2.export.quantizing import Calibration
    from hrnet_d2.export.settings import check_arguments

    calibration = Calibration.of_folder(PHOTOS) if dtype == "int8" else None
    options = {"calibration": calibration, "report": lambda line: None}
    try:
        check_arguments(format, dtype)
        made = write_export(source, target, format, dtype, images, **options)
    except ExportMismatchError as error:
        comparisons = [comparison.as_dict() for comparison in error.comparisons]
        return {"made": True, "equal": False, "comparisons": comparisons}
    except ExportError as error:
        return {"made": False, "reason": str(error)}
    except Exception as error:  # of the exporter or the runtime: the reason is what is wanted
        return {"made": False, "reason": f"{type(error).__name__}: {error}"[:300]}
    row: dict = {
        "made": True,
        "equal": True,
        "comparisons": [comparison.as_dict() for comparison in made.comparisons],
        "mebibytes": round(sum(f.stat().st_size for f in target.iterdir()) / 2**20, 1),
    }
    predictor = load(target, trusted=True)
    if format in WITHOUT_TORCH:
        row["without_torch"] = runs_without_torch(predictor, target, images[0], bare)
    if case is not None:
        entry = predictor.detector.settings["input"]
        entry["long_edge"], entry["short_edge"] = case.spec["scale"]
        row["reference"] = against_reference(case, predictor(case.image)["instances"])
    return row


def runs_without_torch(predictor: Any, folder: Path, image: np.ndarray, bare: str) -> bool:
    """Whether the folder's own program gives the same scores where torch cannot be imported."""
    photo = folder.parent / "photo.png"
    cv2.imwrite(str(photo), image)
    code = "import importlib.util as u; raise SystemExit(u.find_spec('torch') is not None)"
    subprocess.run([bare, "-c", code], check=True)
    command = [bare, str(folder / "detector.py"), str(photo)]
    # Without this process's PYTHONPATH, which leads to the package.
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    made = [detection["score"] for detection in json.loads(done.stdout)["detections"]]
    expected = predictor(image)["instances"].scores.tolist()
    return bool(len(made) == len(expected) and np.allclose(made, expected, atol=1e-5))


def table(rows: list[dict]) -> str:
    """The matrix in Markdown, with the reasons of what is missing."""
    reasons: list[str] = []
    main = _table(_grid(rows, TITLES, COLUMNS, reasons))
    # Many cases and few columns: a line for each case.
    others = _table([*zip(*_grid(rows, OTHERS, FEW, reasons), strict=True)])
    notes = [
        textwrap.fill(f"{i}. {reason}", 120, subsequent_indent="   ")
        for i, reason in enumerate(reasons, 1)
    ]
    parts = [main, others, notes]
    return "".join("\n".join(part) + "\n\n" for part in parts if part)


def _grid(rows: list[dict], titles: dict, columns: list, reasons: list[str]) -> list[list[str]]:
    """Cells with their titles: columns of the matrix by cases that were run; [] without any."""
    columns = sorted(columns, key=lambda column: ([*FORMATS].index(column[0]), column[1]))
    by_cell = {key(row): row for row in rows}
    cases = [case for case in titles if any(case == cell[0] for cell in by_cell)]
    grid = [["", *(titles[case] for case in cases)]]
    for format, dtype in columns:
        found = [by_cell.get((case, format, dtype)) for case in cases]
        cells = ["" if row is None else cell(row, reasons) for row in found]
        grid.append([f"{format} {SHORT[dtype]}", *cells])
    return grid if cases else []


def _table(grid: Sequence[Sequence[str]]) -> list[str]:
    """A grid, whose first row is the head, as Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in grid]
    return [lines[0], "|" + " --- |" * len(grid[0]), *lines[1:]] if lines else []


def cell(row: dict, reasons: list[str]) -> str:
    if not row["made"]:
        if row["reason"] not in reasons:
            reasons.append(row["reason"])
        return f"✗ ({reasons.index(row['reason']) + 1})"
    mark = "✓" if row["equal"] and row.get("without_torch", True) else "✗"
    if row["dtype"] == "float32" and row["equal"]:
        return f"{mark} {max(c['box'] for c in row['comparisons']):.0e} px"
    same, total = (sum(c[k] for c in row["comparisons"]) for k in ("confident_same", "confident"))
    return f"{mark} {same}/{total}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=["run", "write"])
    parser.add_argument("--bare", help="an interpreter without torch")
    known = [*TITLES, *OTHERS]
    parser.add_argument("--cases", nargs="+", choices=known, default=known, metavar="CASE")
    by_name = {f"{format}-{SHORT[dtype]}": (format, dtype) for format, dtype in COLUMNS}
    parser.add_argument("--columns", nargs="+", choices=by_name, default=[*by_name])
    parser.add_argument("--missing", action="store_true", help="run only what has no result")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.task == "write":
        return write(PAGE, MARKERS, table(read_rows()), args.check)
    if not args.bare:
        parser.error("run needs --bare PYTHON")
    columns = [by_name[name] for name in args.columns]
    run(args.bare, chosen_cells(read_rows(), args.cases, columns, args.missing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
