"""train_net.py as a user runs it, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.tiny import QUICK_START, TINY

ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    "launcher, arguments",
    [
        pytest.param(TORCHRUN, [], id="torchrun"),
        pytest.param([], ["--num-gpus", "2", "--dist-url", "auto"], id="num-gpus"),
    ],
)
def test_two_cpu_ranks_train_together(tmp_path, launcher, arguments):
    options = [*TINY, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "('shapes_val',)"]
    options += ["OUTPUT_DIR", str(tmp_path)]
    result = run(*launcher, "train_net.py", "--config-file", QUICK_START, *arguments, *options)
    assert result.returncode == 0, result.stderr[-3000:]
    log = (tmp_path / "log.txt").read_text()
    assert "World size: 2" in log
    assert log.count("Evaluation results for shapes_val") == 1
    metrics = [json.loads(line) for line in (tmp_path / "metrics.json").open()]
    assert any("bbox/AP" in m for m in metrics)


def test_a_mistyped_config_suggests_the_nearest():
    result = run(
        "train_net.py", "--config-file", "faster_rcnn/faster_rcnn_hrnetv2p_w81_1x_coco.yaml"
    )
    assert result.returncode != 0
    assert "faster_rcnn_hrnetv2p_w18_1x_coco" in result.stderr
