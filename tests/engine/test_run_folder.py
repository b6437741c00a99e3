"""One run in an output folder, and no run over another's checkpoints by accident."""

import json
import os
import subprocess
import sys

import pytest

from hrnet_d2.engine import RunFolderError, run_folder

HOLDER = """
import sys, time
from hrnet_d2.engine import run_folder
run_folder.claim(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_run(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_until_the_first_has_died(tmp_path, other_run):
    with pytest.raises(RunFolderError, match=f"in use by another run.*process {other_run.pid} on"):
        run_folder.claim(str(tmp_path))
    other_run.kill()
    other_run.wait()
    run_folder.claim(str(tmp_path))  # the killed run's file is there, its lock is not
    assert json.loads((tmp_path / run_folder.LOCK).read_text())["pid"] == os.getpid()
    run_folder.release(str(tmp_path))
    assert not (tmp_path / run_folder.LOCK).exists()


def test_the_lock_of_another_machine_counts(tmp_path):
    lock = tmp_path / run_folder.LOCK
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "2026-01-01 00:00:00"}))
    with pytest.raises(RunFolderError, match=r"another machine.*elsewhere.*delete .*\.run\.lock"):
        run_folder.claim(str(tmp_path))
    lock.write_text("garbage")
    run_folder.claim(str(tmp_path))
    run_folder.release(str(tmp_path))


def test_checkpoints_of_an_earlier_run_are_not_replaced(tmp_path):
    run_folder.refuse_earlier_run(str(tmp_path))
    run_folder.refuse_earlier_run(str(tmp_path / "absent"))
    (tmp_path / "model_final.pth").write_bytes(b"x")
    (tmp_path / "mine.txt").write_text("x")
    curves = tmp_path / "events.out.tfevents.1.host"
    curves.write_bytes(b"x")
    with pytest.raises(RunFolderError, match=r"model_final\.pth.*--resume.*--overwrite"):
        run_folder.refuse_earlier_run(str(tmp_path))
    run_folder.clear(str(tmp_path))
    run_folder.refuse_earlier_run(str(tmp_path))
    assert (tmp_path / "mine.txt").exists() and not curves.exists()
