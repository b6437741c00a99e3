"""tools/slurm_submit.py with submitit's local executor: a job that is preempted goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.tiny import QUICK_START, TINY

ROOT = Path(__file__).parents[1]
TOOL = [sys.executable, str(ROOT / "tools" / "slurm_submit.py")]


def starts(folder):
    log = folder / "log.txt"
    return log.read_text().count("Starting training from iteration") if log.exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds a process by /proc")
def test_a_job_that_is_preempted_is_requeued_and_resumes(tmp_path):
    pytest.importorskip("submitit")
    out = tmp_path / "out"
    options = [*TINY, "SOLVER.MAX_ITER", "40", "OUTPUT_DIR", str(out)]
    process = subprocess.Popen(
        [*TOOL, "--cluster", "local", "--gpus", "0", "--logs", str(tmp_path / "logs"), "--wait"]
        + ["--", "--config-file", QUICK_START, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    job = int(process.stdout.readline().split()[1].rstrip(":"))
    while not starts(out):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    # As SLURM does: the signal goes to the task, which the job's process started.
    (task,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    assert process.wait(timeout=300) == 0
    log = (out / "log.txt").read_text()
    assert starts(out) == 2 and "Stopped by SIGTERM after iteration" in log
    assert (out / "model_final.pth").exists()


def test_without_submitit_the_extra_is_named(tmp_path):
    (tmp_path / "submitit.py").write_text("raise ImportError")
    result = subprocess.run(
        TOOL, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.returncode == 1 and "hrnet_d2[slurm]" in result.stderr
