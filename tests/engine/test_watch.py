"""A rank that dies, is stopped or hangs ends the job, by name."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hrnet_d2.engine import progress

JOB = """
import os, sys, time
import torch, torch.distributed as dist
from detectron2.utils.logger import setup_logger
from hrnet_d2.engine.watch import watch_ranks
setup_logger(name="hrnet_d2")
dist.init_process_group("gloo", rank=int(sys.argv[1]), world_size=2, init_method=sys.argv[2])
with watch_ranks():
    print("ready", flush=True)
    if sys.argv[1] == "0":
        dist.all_reduce(torch.zeros(1))  # which rank 1 never joins
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
@pytest.mark.parametrize("name, word", [("SIGKILL", "has died"), ("SIGSTOP", "has not answered")])
def test_the_other_rank_is_named(tmp_path, name, word):
    command = [sys.executable, "-c", JOB]
    environment = {**os.environ, "HRNET_D2_RANK_TIMEOUT": "4", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), f"file://{tmp_path}/store"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        for rank in ranks:
            while "ready" not in (line := rank.stdout.readline()):
                assert line, "the process ended before the job"
        start = time.monotonic()
        ranks[1].send_signal(getattr(signal, name))
        output = ranks[0].communicate(timeout=120)[0]
        assert ranks[0].returncode != 0
        assert time.monotonic() - start < 60
        assert f"rank 1 (process {ranks[1].pid} on " in output and word in output
        # A stopped process is killed, since it would outlive its launcher.
        assert ranks[1].wait(timeout=30) == -signal.SIGKILL
    finally:
        for rank in ranks:
            rank.kill()


LEAVING = """
import sys, time
import torch.distributed as dist
from hrnet_d2.engine import watch
watch.INTERVAL = 0.2
dist.init_process_group("gloo", rank=int(sys.argv[1]), world_size=2, init_method=sys.argv[2])
start = time.monotonic()
with watch.watch_ranks():
    if sys.argv[1] == "0":  # saves, writes a report
        time.sleep(6)
assert time.monotonic() - start > 5
dist.destroy_process_group()
print("left", flush=True)
"""


def test_processes_that_are_done_wait_for_the_others(tmp_path):
    """Else they would be taken for dead, or abort while their thread uses the group."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVING, str(rank), f"file://{tmp_path}/store"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HRNET_D2_RANK_TIMEOUT": "30", "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    try:
        for rank in ranks:
            output = rank.communicate(timeout=120)[0]
            assert rank.returncode == 0 and "left" in output, output
    finally:
        for rank in ranks:
            rank.kill()


HANGING = """
import os, sys, time
import torch, torch.distributed as dist
from detectron2.utils.logger import setup_logger
from hrnet_d2.engine import progress
from hrnet_d2.engine.watch import watch_ranks
setup_logger(name="hrnet_d2")
rank = int(sys.argv[1])
dist.init_process_group("gloo", rank=rank, world_size=2, init_method=sys.argv[2])
model = torch.nn.Identity()
progress.mark_forward(model)
def wait_for_data():
    time.sleep(600)
with watch_ranks():
    for step in range(6):
        with progress.working():
            if (rank, step) == (1, 5):
                wait_for_data()
            dist.all_reduce(model(torch.zeros(1)))
        if rank == 0 and step == 4:
            print("ready", flush=True)
            time.sleep(7)  # rank 0 alone computes metrics: no failure
"""


def test_a_rank_that_hangs_is_named_with_its_place(tmp_path):
    environment = {**os.environ, "HRNET_D2_RANK_TIMEOUT": "4", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", HANGING, str(rank), f"file://{tmp_path}/store"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [rank.communicate(timeout=100)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 1 for rank in ranks), outputs
    assert f"rank 1 (process {ranks[1].pid} on " in outputs[0] and "has not moved" in outputs[0]
    assert "in wait_for_data" in outputs[1]


def test_which_ranks_are_stuck():
    moving, waiting = (10, True, 9, 1.0), (10, True, 9, 50.0)
    behind, busy = (9, True, 9, 60.0), (9, False, 9, 60.0)
    assert progress.stuck_ranks([waiting, behind], 45) == [1]
    assert progress.stuck_ranks([waiting, busy], 45) == []  # rank 1 computes metrics
    assert progress.stuck_ranks([waiting, behind, moving], 45) == []
    assert progress.stuck_ranks([waiting, waiting], 45) == []
    assert progress.stuck_ranks([(2, True, 1, 50.0), (1, True, 1, 50.0)], 45) == []
    assert progress.stuck_ranks([(2, True, 1, 250.0), (1, True, 1, 250.0)], 45) == [1]
