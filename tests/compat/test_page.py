"""docs/compatibility.md is what its generator writes, and every cell of it is a test."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.matrix import TABLES

ROOT = Path(__file__).parents[2]
CELLS = [cell for table in TABLES for cell in table.cells()]


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "build_compatibility.py"
    spec = importlib.util.spec_from_file_location("build_compatibility", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_cell_is_a_test_and_every_test_a_cell():
    files = sorted({cell.split("::")[0] for cell in CELLS})
    command = [sys.executable, "-m", "pytest", "--collect-only", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stdout
    found = {line for line in listed.stdout.splitlines() if "::" in line}
    assert found == set(CELLS) and len(CELLS) == len(found)


def test_the_page_is_the_generators(tool):
    results = json.loads(tool.RESULTS.read_text("utf-8"))
    assert tool.PAGE.read_text("utf-8") == tool.render(results), (
        "run tools/build_compatibility.py --page"
    )
    assert set(results) <= set(CELLS) and set(results.values()) <= set(tool.MARKS)


def test_a_report_becomes_marks(tool, tmp_path):
    report = tmp_path / "report.xml"
    case = '<testcase classname="tests.compat.test_training_tools" name="test_benchmark[{}]">{}'
    cases = [("htc", ""), ("fcos", "<failure/>"), ("mask_rcnn", "<skipped/>")]
    body = "".join(case.format(*row) + "</testcase>" for row in cases)
    report.write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
    page = tool.render(tool.read(report))
    (line,) = (line for line in page.splitlines() if line.startswith("| `benchmark.py`"))
    assert (
        line
        == "| `benchmark.py` | "
        + " | ".join(["not run", "not run", "not run", "not run", "yes", "**no**"])
        + " |"
    )
