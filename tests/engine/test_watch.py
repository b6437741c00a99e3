"""A rank that dies or is stopped ends the job, by name."""

import os
import signal
import subprocess
import sys
import time

import pytest

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
