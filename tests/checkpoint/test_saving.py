"""Saves survive crashes and full disks, and the newest whole checkpoint is resumed from."""

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import PeriodicCheckpointer
from torch import nn

from hrnet_d2.checkpoint import Checkpointer, CheckpointError
from hrnet_d2.modeling import HRFPN, HRNet

MIB = 2**20


class Counter(nn.Module):
    """A model whose weights are all the iteration that they were saved in."""

    def __init__(self, value: float = 0, size: int = 1000):
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), float(value)))


def save(folder, iteration, name=None):
    name = name or f"model_{iteration:07d}"
    Checkpointer(Counter(iteration), str(folder)).save(name, iteration=iteration)


def resume(folder):
    model = Counter(-1)
    rest = Checkpointer(model, str(folder)).resume_or_load("", resume=True)
    assert "iteration" not in rest or torch.all(model.weight == rest["iteration"])
    return rest.get("iteration")


@pytest.fixture
def run(tmp_path):
    """A run's folder with three checkpoints, the second of which was written last."""
    for iteration in (5, 3, 9):
        save(tmp_path, iteration)
        os.utime(tmp_path / f"model_{iteration:07d}.pth", ns=(iteration, iteration))
    return tmp_path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(torch.full((100,), 9.0).numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)


LAST = "last_checkpoint"
DAMAGE = {
    "nothing": (lambda run: None, 9),
    "tag empty": (lambda run: (run / LAST).write_text(""), 9),
    "tag missing": (lambda run: (run / LAST).unlink(), 9),
    "tag of zeros": (lambda run: (run / LAST).write_bytes(bytes(20)), 9),
    "tag leaves the folder": (lambda run: (run / LAST).write_text("../other/model.pth"), 9),
    "tag names a deleted file": (lambda run: (run / "model_0000009.pth").unlink(), 5),
    "tag names a truncated file": (lambda run: truncate(run / "model_0000009.pth"), 5),
    "tag names a flipped file": (lambda run: flip(run / "model_0000009.pth"), 5),
    "tag names an empty file": (lambda run: (run / "model_0000009.pth").write_bytes(b""), 5),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_whole_checkpoint_is_resumed_from(run, damage, caplog):
    change, wanted = DAMAGE[damage]
    (run / ".model_0000010.pth.x.part.pth").write_bytes(b"unfinished")
    torch.save({"weight": torch.zeros(3)}, run / "hrnet_w18.pth")  # someone's ImageNet weights
    change(run)
    with caplog.at_level(logging.WARNING):
        assert resume(run) == wanted
    said = f"Resuming from {run / f'model_{wanted:07d}.pth'}"
    assert (said in caplog.text) == (damage != "nothing")


def test_nothing_whole_is_an_error_and_nothing_at_all_is_a_new_run(run):
    for path in run.glob("*.pth"):
        truncate(path)
    with pytest.raises(CheckpointError, match=r"nothing to resume from: .*model_0000009\.pth"):
        resume(run)
    empty = run / "new"
    assert not Checkpointer(Counter(), str(empty)).has_checkpoint() and resume(empty) is None


def test_a_failed_save_leaves_the_old_file(run, monkeypatch):
    def half(data, part):
        Path(part).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (run / "model_0000009.pth").read_bytes()
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=r"needs .* MiB and .* MiB are free.*model_0000009\.pth"):
        save(run, 9)
    assert (run / "model_0000009.pth").read_bytes() == before and resume(run) == 9
    assert not list(run.glob(".*"))


def test_a_disk_too_small_is_found_before_writing(run, monkeypatch):
    usage = type("Usage", (), {"free": 100})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("began to write"))
    with pytest.raises(OSError, match="needs 0.0 MiB and 0.0 MiB are free") as error:
        save(run, 10)
    assert error.value.errno == errno.ENOSPC and resume(run) == 9


def test_in_a_loop_of_ones_own(tmp_path):
    """The folder is created, old files are removed, a second run resumes model and optimizer."""
    folder = tmp_path / "not" / "there" / "yet"

    def loop(iterations):
        model = Counter(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
        checkpointer = Checkpointer(model, str(folder), optimizer=optimizer)
        rest = checkpointer.resume_or_load("", resume=True)
        saver = PeriodicCheckpointer(checkpointer, 2, max_iter=iterations, max_to_keep=1)
        start = rest.get("iteration", -1) + 1
        for iteration in range(start, iterations):
            optimizer.zero_grad()
            model.weight.sum().backward()
            optimizer.step()
            saver.step(iteration)
        return start, model.weight.detach()

    assert loop(4)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "last_checkpoint",
        "model_0000003.pth",
        "model_final.pth",
    ]
    start, weight = loop(7)
    expected = Counter(0)
    reference = torch.optim.SGD(expected.parameters(), lr=1.0, momentum=0.5)
    for _ in range(7):
        reference.zero_grad()
        expected.weight.sum().backward()
        reference.step()
    assert start == 4 and torch.equal(weight, expected.weight)


class Parts(nn.Module):
    """A network of someone's own, with parts of these names."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def hrnet() -> nn.Module:
    return HRNet(width=4, norm="GN")


# Names of which some are also those of another project's files, or prefixes that wrappers add.
OWN = {
    "a backbone alone": hrnet,
    "a backbone and its neck": lambda: HRFPN(hrnet()),
    "a classifier": lambda: Parts(backbone=hrnet(), head=Parts(fc=nn.Linear(2, 2))),
    "names of MMDetection's": lambda: Parts(backbone=nn.Linear(2, 2), rpn_head=nn.Linear(2, 2)),
    "a wrapper's prefix": lambda: Parts(module=nn.Linear(2, 2)),
    "a moving average": lambda: Parts(ema_net=nn.Linear(2, 2), net=nn.Linear(2, 2)),
}


@pytest.mark.parametrize("what", OWN)
def test_a_network_of_ones_own_resumes_completely(what, tmp_path, caplog):
    first, second = OWN[what](), OWN[what]()
    optimizers = [torch.optim.SGD(m.parameters(), lr=1.0, momentum=0.9) for m in (first, second)]
    sum(p.sum() for p in first.parameters()).backward()
    optimizers[0].step()
    Checkpointer(first, str(tmp_path), optimizer=optimizers[0]).save("a", iteration=3)
    caplog.clear()
    rest = Checkpointer(second, str(tmp_path), optimizer=optimizers[1]).resume_or_load("")
    assert rest["iteration"] == 3
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    momenta = [opt.state_dict()["state"] for opt in optimizers]
    assert momenta[0].keys() == momenta[1].keys() and momenta[0]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_what_is_loaded_is_not_tied_to_the_file(tmp_path):
    model = Counter(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.weight.sum().backward()
    optimizer.step()
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("x")
    again = Counter(0)
    second = torch.optim.SGD(again.parameters(), 0.1, momentum=0.9)
    Checkpointer(again, str(tmp_path), optimizer=second).resume_or_load("", resume=True)
    path = tmp_path / "x.pth"
    with open(path, "r+b") as file:  # as other programs overwrite files, in place
        file.write(bytes(path.stat().st_size))
    assert torch.all(second.state_dict()["state"][0]["momentum_buffer"] == 1)
    assert torch.allclose(again.weight, torch.tensor(0.9))


# Imports once; for each number that it is sent, a child saves iterations from that number on until
# it is killed.
SAVER = """
    import itertools, os, sys
    import torch
    torch.set_num_threads(1)
    from hrnet_d2.checkpoint import Checkpointer
    from tests.checkpoint.test_saving import Counter
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            for i in itertools.count(int(line)):
                Checkpointer(Counter(i, 500_000), sys.argv[1]).save(f"model_{i % 3}", iteration=i)
                os.write(1, f"{i}\\n".encode())  # at once, or not at all
        print("pid", pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)
"""


def _kill_while_saving(folder: Path, times: int) -> None:
    chance = random.Random(0)
    newest = -1
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SAVER), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as saver:
        for _ in range(times):
            print(newest + 1, file=saver.stdin, flush=True)
            pid, reported, waiting = 0, [], chance.randrange(1, 4)
            while not pid or len(reported) < waiting:
                line = saver.stdout.readline().split()
                if line[0] == "pid":
                    pid = int(line[1])
                else:
                    reported.append(int(line[0]))
            time.sleep(chance.random() * 0.03)
            os.kill(pid, signal.SIGKILL)
            while (line := saver.stdout.readline().strip()) != "dead":
                reported.append(int(line))
            model = Counter(-1, 500_000)
            loader = Checkpointer(model, str(folder))
            iteration = loader.resume_or_load("", resume=True)["iteration"]
            assert torch.all(model.weight == iteration)
            assert iteration >= max([newest, *reported])
            newest = iteration
        saver.stdin.close()
    # Three checkpoints, the tag, and what the last kills left unfinished: one for each name.
    assert len(list(folder.iterdir())) <= 3 + 1 + 4


def test_killed_saves_can_be_resumed(tmp_path):
    _kill_while_saving(tmp_path, 10)


@pytest.mark.slow
def test_a_hundred_killed_saves_can_be_resumed(tmp_path):
    _kill_while_saving(tmp_path, 100)
