#!/usr/bin/env python
"""Write the tables of README.md, docs/predict.md and benchmarks/README.md from benchmarks/*.json.

python tools/build_speed_table.py            # rewrite these files between their markers
python tools/build_speed_table.py --print    # print the tables only
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cpu_tables  # noqa: E402
import gpu_tables  # noqa: E402
from tables import of_task, wrap_command  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed-table:begin -->", "<!-- speed-table:end -->"


def load(folder: Path = ROOT / "benchmarks") -> list[dict]:
    """The reports of tools/benchmark.py in a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def all_tables(reports: list[dict]) -> str:
    """Every table, with the commands that produced its figures."""
    parts = []
    on_gpu = [report for report in reports if gpu_tables.is_on_gpu(report)]
    for sections, some in ((cpu_tables.SECTIONS, _on_cpu(reports)), (gpu_tables.SECTIONS, on_gpu)):
        for title, (task, build) in sections.items():
            made = of_task(some, task)
            if made:
                commands = "\n".join(wrap_command(report["command"]) for report in made)
                parts.append(f"## {title}\n\n{build(some)}\n\n```bash\n{commands}\n```")
    return "\n\n".join(parts)


def _on_cpu(reports: list[dict]) -> list[dict]:
    return [report for report in reports if not gpu_tables.is_on_gpu(report)]


def insert(text: str, table: str) -> str:
    """A file's text with the table between its markers.

    Raises:
        ValueError: if the markers are missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the file needs the lines {BEGIN} and {END}")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def documents(reports: list[dict]) -> dict[Path, str]:
    """The files that contain tables, and their tables."""
    on_cpu, on_gpu = _on_cpu(reports), [r for r in reports if gpu_tables.is_on_gpu(r)]
    short = f"{cpu_tables.inference_table(on_cpu)}\n\n{cpu_tables.training_table(on_cpu)}"
    first = of_task(on_cpu, "runtimes")[:1]
    if first:
        short += f"\n\n{cpu_tables.runtimes_table(first)}"
    if of_task(on_gpu, "inference"):
        short += f"\n\n{gpu_tables.short_inference_table(on_gpu)}"
    found = {ROOT / "README.md": short, ROOT / "benchmarks" / "README.md": all_tables(reports)}
    if of_task(on_cpu, "tiles"):
        found[ROOT / "docs" / "predict.md"] = cpu_tables.tiles_table(on_cpu)
    return found


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="print the tables, write no file")
    args = parser.parse_args(argv)
    reports = load()
    if args.print:
        print(all_tables(reports))
        return
    for path, table in documents(reports).items():
        path.write_text(insert(path.read_text(), table))


if __name__ == "__main__":
    main()
