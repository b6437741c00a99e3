"""Mutated datasets, configs, images and results are read or refused; nothing else happens.

Slow: see :mod:`tests.fuzz.test_fuzz_checkpoints`; the same variables set time and seed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(scratch: Path, seconds: float, seed: int) -> str:
    """Run the child; returns its account, which begins with the number of executions."""
    command = [sys.executable, "-m", "tests.fuzz.inputs_child", scratch, str(seed), str(seconds)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 300)
    assert child.returncode == 0, f"{child.stderr[-6000:]}\nThe files are in {scratch}, seed {seed}"
    return child.stdout.strip()


def test_a_few_seconds_of_mutations(tmp_path):
    assert int(fuzz(tmp_path, seconds=8, seed=0).split()[0]) > 10


@pytest.mark.slow
def test_mutations(tmp_path, capsys):
    seconds = float(os.environ.get("HRNET_D2_FUZZ_SECONDS", "120"))
    seed = int(os.environ.get("HRNET_D2_FUZZ_SEED", "1"))
    account = fuzz(tmp_path, seconds, seed)
    with capsys.disabled():
        print(f"\nfuzzed for {seconds:.0f} s: executions, and what came of them: {account}")
    assert int(account.split()[0]) > seconds


def test_findings_are_told_and_kept(tmp_path):
    """A reader that lets errors of other kinds out is found."""
    program = (
        "import sys, tests.fuzz.inputs_child as child\n"
        "def read(root): int((root / 'a.txt').read_text())\n"
        "child.TARGETS = {'number': child.Target(\n"
        "    lambda root: (root / 'a.txt').write_text('12'), read, (), ('.txt',))}\n"
        f"sys.argv = ['child', {str(tmp_path)!r}, '0', '1']\nchild.main()"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == 1, child.stderr
    assert "FINDING another kind of error: ValueError of read" in child.stderr
    assert (tmp_path / "findings" / "0_a.txt").is_file()
