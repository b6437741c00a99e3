#!/usr/bin/env python
"""Write the tables of README.md and benchmarks/README.md from the figures in benchmarks/.

python tools/build_speed_table.py            # rewrite both files between their markers
python tools/build_speed_table.py --print    # the tables alone
"""

import argparse
import json
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed-table:begin -->", "<!-- speed-table:end -->"


def load(folder: Path = ROOT / "benchmarks") -> list[dict]:
    """The reports of tools/benchmark.py in a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _of_task(reports: list[dict], task: str) -> list[dict]:
    return [report for report in reports if report.get("task") == task]


def _name(config: str) -> str:
    return f"`{config.rsplit('/', 1)[-1].removesuffix('.yaml')}`"


def _table(rows: list[list], columns: list[str]) -> str:
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)


def _place(report: dict) -> str:
    """Where a report was measured."""
    where = report["environment"]
    place = f"{where.get('gpu', where['processor'])}, {where['threads']} threads"
    if any(result.get("clock") == "cpu" for result in report["results"]):
        place += ", processor time of a shared machine"
    return f"{place} ({where['instructions']}), torch {where['torch'].split('+')[0]}"


def _measured(reports: list[dict], how: str) -> str:
    return f"\n\nMeasured on {'; '.join(dict.fromkeys(map(_place, reports)))}: {how}"


def inference_table(reports: list[dict]) -> str:
    """Plain against optimized, a row for each config."""
    rows = []
    reports = _of_task(reports, "inference")
    for result in (result for report in reports for result in report["results"]):
        plain, fast = result["paths"]["plain"], result["paths"]["optimized"]
        apart = fast["difference"]
        rows.append(
            [
                _name(result["config"]),
                "{}x{}".format(*result["size"]),
                f"{plain['median_ms'] / 1e3:.2f}",
                f"{fast['median_ms'] / 1e3:.2f}",
                f"{result['speedup']:.2f}x",
                f"{apart['box_px']:.0e} px, score {apart['score']:.0e}"
                if "box_px" in apart
                else "see the file",
            ]
        )
    columns = ["config", "image", "plain, s", "optimized, s", "faster by", "largest difference"]
    how = "medians, both paths in turn in one run."
    return _table(rows, columns) + _measured(reports, how)


def parts_table(reports: list[dict]) -> str:
    """Seconds of each part, plain and optimized."""
    rows = []
    names = ["bottom_up", "neck", "proposals", "heads", "other"]
    for result in (r for report in _of_task(reports, "inference") for r in report["results"]):
        for path in ("plain", "optimized"):
            parts = result["paths"][path]["parts_ms"]
            figures = [f"{parts[n] / 1e3:.2f}" if n in parts else "" for n in names]
            rows.append([_name(result["config"]), path, *figures])
    return _table(rows, ["config", "path", *(f"{name}, s" for name in names)])


def training_table(reports: list[dict]) -> str:
    """An iteration with each switch."""
    reports = _of_task(reports, "train")
    rows = [
        [
            _name(result["config"]),
            f"{result['batch']} x " + "{}x{}".format(*result["size"]),
            result["switch"],
            f"{result['median_ms'] / 1e3:.2f}",
            f"{result['speedup']:.2f}x",
            f"{result['peak_memory_bytes'] / 2**30:.2f}",
        ]
        for report in reports
        for result in report["results"]
    ]
    columns = ["config", "images", "switches", "s an iteration", "against the first", "peak, GiB"]
    return _table(rows, columns) + _measured(
        reports, "medians, all in turn in one run; memory in a process of its own."
    )


def growth_table(reports: list[dict]) -> str:
    """Cost against pixels, proposals and batch."""
    reports = _of_task(reports, "growth")
    rows = []
    for result in (result for report in reports for result in report["results"]):
        for path, figures in result.items():
            if path in ("config", "axis", "value"):
                continue
            if "median_ms" in figures:
                cost = f"{figures['median_ms'] / 1e3:.2f} s"
            else:
                cost = f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB"
            rows.append([result["axis"], f"{result['value']:g}", path, cost])
    return _table(rows, ["axis", "value", "path", "cost"]) + _measured(
        reports, f"{_name(reports[0]['results'][0]['config'])}, medians."
    )


def curves_table(reports: list[dict]) -> str:
    """Mean losses over ten spans of training, and how far apart they are."""
    reports = _of_task(reports, "curves")
    rows, notes = [], ""
    for report in reports:
        *runs, apart = report["results"]
        rows += [[run["switch"], str(run["seed"]), *map(str, run["means"])] for run in runs]
        others = ", ".join(
            f"{k} {v:.1%}" for k, v in apart["relative_distance_of_switches"].items()
        )
        notes += (
            f"\n\nMean distance from `{apart['reference']}` of the same seed: {others}; between "
            f"its seeds: {apart['relative_distance_of_its_seeds']:.1%}."
        )
    spans = [f"loss {i + 1}/10" for i in range(max(len(row) for row in rows) - 2)]
    return _table(rows, ["switches", "seed", *spans]) + notes


def data_table(reports: list[dict]) -> str:
    """Milliseconds of one image's data."""
    reports = _of_task(reports, "data")
    rows = [[r["step"], f"{r['median_ms']:.1f}"] for report in reports for r in report["results"]]
    return _table(rows, ["step", "ms an image"]) + _measured(reports, "medians, one process.")


def evaluation_table(reports: list[dict]) -> str:
    """Evaluators on the same results."""
    reports = _of_task(reports, "eval")
    rows, notes = [], ""
    for report in reports:
        *runs, last = report["results"]
        rows += [[r["evaluator"], str(r["images"]), f"{r['seconds']:.1f}"] for r in runs]
        notes += (
            f"\n\n{last['speedup']}x; largest difference of {last['metrics']} metrics: "
            f"{last['largest_difference']:.0e}."
        )
    return _table(rows, ["evaluator", "images", "s"]) + notes


SECTIONS = {
    "Inference": ("inference", inference_table),
    "Inference by part": ("inference", parts_table),
    "Training": ("train", training_table),
    "Loss curves": ("curves", curves_table),
    "Growth": ("growth", growth_table),
    "Training data": ("data", data_table),
    "Evaluation": ("eval", evaluation_table),
}


def all_tables(reports: list[dict]) -> str:
    """Every table, with the commands that made its figures."""
    parts = []
    for title, (task, build) in SECTIONS.items():
        made = _of_task(reports, task)
        if made:
            commands = "\n".join(report["command"] for report in made)
            parts.append(f"## {title}\n\n{build(reports)}\n\n```bash\n{commands}\n```")
    return "\n\n".join(parts)


def insert(text: str, table: str) -> str:
    """A file's text with the table between its markers.

    Raises:
        ValueError: where the markers are missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the file needs the lines {BEGIN} and {END}")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def documents(reports: list[dict]) -> dict[Path, str]:
    """The files that hold tables, and their tables."""
    short = f"{inference_table(reports)}\n\n{training_table(reports)}"
    return {ROOT / "README.md": short, ROOT / "benchmarks" / "README.md": all_tables(reports)}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="do not touch the files")
    args = parser.parse_args(argv)
    reports = load()
    if args.print:
        print(all_tables(reports))
        return
    for path, table in documents(reports).items():
        path.write_text(insert(path.read_text(), table))


if __name__ == "__main__":
    main()
