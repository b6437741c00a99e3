"""A run that is killed again and again, and resumed, ends as one that was never interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import QUICK_START, TINY

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *TINY,
    "SOLVER.MAX_ITER", "60",
    "SOLVER.STEPS", "(40,)",
    "SOLVER.EMA.ENABLED", "True",
    "SOLVER.CHECKPOINT_PERIOD", "4",
    "SOLVER.CHECKPOINTS_TO_KEEP", "2",
    "DATASETS.TEST", "('shapes_val',)",
    "TEST.EVAL_PERIOD", "20",
    "TEST.VAL_LOSS", "True",
]  # fmt: skip
TWO = ["--num-gpus", "2", "--dist-url", "auto"]
TIMES = 10


def start(folder, *arguments) -> subprocess.Popen:
    command = [sys.executable, "train_net.py", "--config-file", QUICK_START, *arguments]
    return subprocess.Popen(
        [*command, *OPTIONS, "OUTPUT_DIR", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def starts(folder) -> int:
    log = folder / "log.txt"
    return log.read_text().count("Starting training from iteration") if log.exists() else 0


def finish(folder, *arguments):
    process = start(folder, *arguments)
    assert process.wait(timeout=900) == 0, (folder / "log.txt").read_text()[-3000:]
    return torch.load(folder / "model_final.pth", weights_only=False)


def interrupt(folder, number, rng, *arguments) -> bool:
    """Whether a run was interrupted; not, if it had ended by then."""
    before = starts(folder)
    process = start(folder, "--resume", *arguments)
    while starts(folder) == before:
        assert process.poll() is None, (folder / "log.txt").read_text()[-3000:]
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 3))
    ended = process.poll() is not None
    if number == signal.SIGKILL or rng.random() < 0.5:
        os.killpg(process.pid, number)  # as SLURM does, and Ctrl-C
    else:
        process.send_signal(number)
    status = process.wait(timeout=300)
    if number == signal.SIGTERM:
        assert status in (0, 128 + number)  # 0 if it was about to end
        assert all_end(process.pid)
    return not ended


def all_end(group) -> bool:
    """Whether no process is left behind; multiprocessing's tracker ends a little later."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, finish(folder)


def same(a, b, **tolerance) -> None:
    for part in (lambda s: s["model"], lambda s: s["trainer"]["average"]["weights"]):
        assert part(a).keys() == part(b).keys()
        for name, value in part(a).items():
            torch.testing.assert_close(part(b)[name], value, **tolerance, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_interrupted_ten_times_is_the_same(tmp_path, unbroken, number):
    rng = random.Random(int(number))
    interrupted = sum(interrupt(tmp_path, number, rng) for _ in range(TIMES))
    assert interrupted >= TIMES // 2
    final = finish(tmp_path, "--resume")
    same(unbroken[1], final, rtol=0, atol=0)
    assert final["trainer"]["average"]["updates"] == 60
    evaluations = [
        json.loads((folder / "evaluations.json").read_text()) for folder in (unbroken[0], tmp_path)
    ]
    assert evaluations[0] == evaluations[1]
    assert len(list(tmp_path.glob("model_0*.pth"))) <= 3
    assert not list(tmp_path.glob(".*part*"))


@pytest.fixture(scope="module")
def unbroken_pair(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("pair"), *TWO)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_two_processes_that_are_interrupted_ten_times_are_the_same(tmp_path, unbroken_pair, number):
    rng = random.Random(100 + int(number))
    interrupted = sum(interrupt(tmp_path, number, rng, *TWO) for _ in range(TIMES))
    assert interrupted >= TIMES // 2
    same(unbroken_pair, finish(tmp_path, "--resume", *TWO), rtol=1e-5, atol=1e-6)


def test_a_signal_to_all_processes_of_a_run_saves_a_checkpoint(tmp_path):
    """The launcher's death would be a second signal for the others."""
    process = start(tmp_path, *TWO)
    while not starts(tmp_path):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert all_end(process.pid)
    log = (tmp_path / "log.txt").read_text()
    assert "Stopped by SIGTERM after iteration" in log
    last = (tmp_path / "last_checkpoint").read_text()
    assert f"Stopped by SIGTERM after iteration {int(last[6:13])}:" in log
