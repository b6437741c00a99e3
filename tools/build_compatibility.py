"""Write docs/compatibility.md from the tests of tests/compat.

python tools/build_compatibility.py            run the tests, write the results and the page
python tools/build_compatibility.py --page     write the page from the committed results
python tools/build_compatibility.py --only WORDS   run the cells that pytest's -k WORDS selects
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.compat.matrix import TABLES, Table  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = ROOT / "tests" / "compat" / "results.json"
MARKS = {"passed": "yes", "failed": "**no**", "skipped": "not run"}

HEAD = """\
# Compatibility with Detectron2

What works is tested: each cell of these tables is a test.
`python tools/build_compatibility.py` runs them and writes this page; `make test-slow` runs
them too.
"""
TAIL = """\

## Hints

- Levels that a model does not read leave parameters without a gradient, for which
  `DistributedDataParallel` waits. Make only the levels that are read: set
  `MODEL.HRNETV2P.NECK.NUM_OUTS` to 4 for heads that read `p2` … `p5`. A model that does not read
  all levels of HRNet itself needs `find_unused_parameters=True`.
- Models whose `MODEL.PIXEL_STD` is 1, as in Detectron2's YAML files, expect Detectron2's own
  ImageNet weights. HRNet's need the mean and standard deviation of this package's configs.
- Detectron2's `DefaultPredictor` and `DatasetMapper` resize images with Pillow, this package with
  OpenCV: at the original size the detections are the same, after resizing the scores differ.
"""


def run(words: str = "") -> dict[str, str]:
    """Run the cells' tests.

    Returns:
        Test id to "passed", "failed" or "skipped".
    """
    files = sorted({cell.split("::")[0] for table in TABLES for cell in table.cells()})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *files, "-m", "slow", f"--junitxml={report}"]
        subprocess.run(
            [*command, *(["-k", words] if words else [])],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,  # a failed cell is a result
        )
        return read(report)


def read(report: Path) -> dict[str, str]:
    """The results of pytest's JUnit report."""
    results = {}
    for case in ET.parse(report).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        kinds = {child.tag for child in case}
        result = "failed" if kinds & {"failure", "error"} else "passed"
        results[f"{file}::{case.attrib['name']}"] = "skipped" if "skipped" in kinds else result
    return results


def render_table(table: Table, results: dict[str, str]) -> Iterable[str]:
    yield f"\n## {table.title}\n"
    yield from wrap(table.text)
    yield ""
    yield "| | " + " | ".join(table.columns.values()) + " |"
    yield "| --- |" + " --- |" * len(table.columns)
    for row in table.rows:
        cells = (MARKS[results.get(f"{row.test}[{c}]", "skipped")] for c in table.columns)
        yield f"| {row.title} | " + " | ".join(cells) + " |"
    yield ""
    yield from wrap("Tests: " + ", ".join(f"`{row.test}`" for row in table.rows) + ".")


def wrap(text: str, width: int = 118) -> Iterable[str]:
    """Lines of at most ``width`` columns."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def render(results: dict[str, str]) -> str:
    """The page."""
    lines = [line for table in TABLES for line in render_table(table, results)]
    return HEAD + "\n".join(lines) + "\n" + TAIL


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="do not run the tests")
    parser.add_argument("--only", default="", metavar="WORDS", help="cells to run, as pytest's -k")
    args = parser.parse_args(arguments)
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if not args.page:
        results.update(run(args.only))
        known = {cell for table in TABLES for cell in table.cells()}
        results = {cell: results[cell] for cell in sorted(known & results.keys())}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    PAGE.write_text(render(results), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
