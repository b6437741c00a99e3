#!/usr/bin/env python
"""Write README's speed table from the figures in benchmarks/.

python tools/build_speed_table.py            # rewrite README.md between its markers
python tools/build_speed_table.py --print    # the table alone
"""

import argparse
import json
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed-table:begin -->", "<!-- speed-table:end -->"
COLUMNS = ["config", "image", "plain, s", "optimized, s", "faster by", "largest difference"]


def load(folder: Path = ROOT / "benchmarks") -> list[dict]:
    """The reports of tools/benchmark.py in a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def build_table(reports: list[dict]) -> str:
    """Markdown of the inference reports, with where they were measured under it."""
    rows, places = [], []
    for report in reports:
        if report["task"] != "inference":
            continue
        for result in report["results"]:
            plain, fast = result["paths"]["plain"], result["paths"]["optimized"]
            name = result["config"].rsplit("/", 1)[-1].removesuffix(".yaml")
            apart = fast["difference"]
            rows.append(
                [
                    f"`{name}`",
                    "{}x{}".format(*result["size"]),
                    f"{plain['median_ms'] / 1e3:.2f}",
                    f"{fast['median_ms'] / 1e3:.2f}",
                    f"{result['speedup']:.2f}x",
                    f"{apart['box_px']:.0e} px, score {apart['score']:.0e}"
                    if "box_px" in apart
                    else "see the file",
                ]
            )
        where = report["environment"]
        place = f"{where.get('gpu', where['processor'])}, {where['threads']} threads"
        if any(result.get("clock") == "cpu" for result in report["results"]):
            place += ", processor time of a shared machine"
        place += f" ({where['instructions']}), torch {where['torch'].split('+')[0]}"
        if place not in places:
            places.append(place)
    table = tabulate(rows, COLUMNS, tablefmt="pipe", disable_numparse=True)
    return f"{table}\n\nMeasured on {'; '.join(places)}: medians, both paths in turn in one run."


def insert(readme: str, table: str) -> str:
    """README's text with the table between its markers.

    Raises:
        ValueError: where the markers are missing.
    """
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    head, rest = readme.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="do not touch README.md")
    args = parser.parse_args(argv)
    table = build_table(load())
    if args.print:
        print(table)
        return
    path = ROOT / "README.md"
    path.write_text(insert(path.read_text(), table))


if __name__ == "__main__":
    main()
