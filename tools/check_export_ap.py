#!/usr/bin/env python
"""Export trained detectors in every type of numbers and evaluate each export beside the model.

python tools/check_export_ap.py run WEIGHTS --calibrate FOLDER    exits with 1 if an export fails
python tools/check_export_ap.py write                             docs/deploy.md from the JSON
python tools/check_export_ap.py write --check                     exits with 1 if it is out of date

DATASETS.TEST of the config is what is evaluated on; FOLDER holds the images to quantize on. What
is written is of the weights that "make demo" trains, with the images that
hrnet_d2.data.datasets.shapes.write_shapes makes, and of those of tools/train_baseline.py. A run
replaces what the same command found before. Needs the extras onnx, openvino and int8.
"""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
from check_backends import provenance, save, write  # noqa: E402
from tables import wrap_command  # noqa: E402

RESULT = ROOT / "benchmarks" / "export_ap.json"
PAGE = ROOT / "docs" / "deploy.md"
MARKERS = ("<!-- export-ap:begin -->\n", "<!-- export-ap:end -->")
COLUMNS = [
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("openvino", "float32"),
    ("openvino", "float16"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("torchscript", "bfloat16"),
]


def run(weights: str, config_file: str, calibrate: str, opts: list[str]) -> int:
    """The status: 1 if an export could not be made or lost more than a point of AP."""
    from hrnet_d2 import model_zoo
    from hrnet_d2.export.evaluating import check_evaluation
    from hrnet_d2.export.exporting import Source, cpu_predictor
    from hrnet_d2.export.settings import layers_dtype

    where = provenance()
    stored = json.loads(RESULT.read_text("utf-8"))["rows"] if RESULT.is_file() else []
    others = [row for row in stored if row["command"] != where["command"]]
    rows: list[dict] = []
    predictor = cpu_predictor(model_zoo.load_config(config_file, [*opts, "MODEL.WEIGHTS", weights]))
    check_evaluation(predictor.cfg)
    sources: dict = {}  # a recorded graph for each type of the layers
    for format, dtype in COLUMNS:
        layers = layers_dtype(format, dtype)
        if layers not in sources:
            sources[layers] = Source(predictor, layers)
        row = {"format": format, "dtype": dtype}
        row |= _export(sources[layers], format, dtype, calibrate)
        print(json.dumps(row), flush=True)
        rows.append(row | where)
        save([*others, *rows], RESULT)
    return int(any("reason" in row for row in rows))


def _export(source: Any, format: str, dtype: str, calibrate: str) -> dict:
    """AP of the model and of one export, by task; or the reason why there is none."""
    from hrnet_d2.data.datasets.shapes import draw
    from hrnet_d2.export import ExportError
    from hrnet_d2.export.checking import check_images
    from hrnet_d2.export.exporting import write_export
    from hrnet_d2.export.quantizing import Calibration

    calibration = Calibration.of_folder(Path(calibrate)) if dtype == "int8" else None
    options: dict[str, Any] = {"calibration": calibration, "evaluate": True}
    images = check_images(draw(0, 0)[0])
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = write_export(source, Path(folder) / "made", format, dtype, images, **options)
        except ExportError as error:
            return {"reason": str(error)}
    return made.average_precision


def table(rows: list[dict]) -> str:
    """For each command a line for each export, in Markdown, and the command."""
    by_command = itertools.groupby(rows, key=lambda row: row["command"])
    return "\n".join(_table_of(command, list(own)) for command, own in by_command)


def _table_of(command: str, rows: list[dict]) -> str:
    tasks = next(list(row["model"]) for row in rows if "model" in row)
    head = [f"{task} AP | change" for task in tasks]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " --- | --- |" * len(tasks)]
    for row in rows:
        cells = [f"✗ {row['reason']}"] if "reason" in row else []
        for task in tasks if "model" in row else ():
            model, made = row["model"][task], row["export"][task]
            cells += [f"{made:.2f}", f"{made - model:+.2f}"]
        lines.append(f"| {row['format']} {row['dtype']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n```bash\n{wrap_command(command)}\n```\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    running = tasks.add_parser("run")
    running.add_argument("weights", metavar="WEIGHTS")
    running.add_argument("--config-file", default="", help="default: the weights' own")
    running.add_argument("--calibrate", metavar="FOLDER", required=True)
    running.add_argument("--opts", nargs=argparse.REMAINDER, default=[])
    tasks.add_parser("write").add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.task == "run":
        return run(args.weights, args.config_file, args.calibrate, args.opts)
    return write(PAGE, MARKERS, table(json.loads(RESULT.read_text("utf-8"))["rows"]), args.check)


if __name__ == "__main__":
    sys.exit(main())
