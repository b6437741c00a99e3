"""Mutated checkpoints of every format are read or refused; nothing else happens.

Slow: ``HRNET_D2_FUZZ_SECONDS`` sets how long it runs (default 120, ten minutes for a release), and
``HRNET_D2_FUZZ_SEED`` where it starts. The fast suite runs it for a few seconds.
"""

import argparse
import collections
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]


def make_samples(folder: Path) -> None:
    """Small files of every format, with what trainers keep beside the weights."""
    state = collections.OrderedDict(
        (f"backbone.layer{i}.{part}", torch.rand(4, 3)) for i in range(3) for part in "ab"
    )
    state["backbone.counter"] = torch.tensor(3)
    content = {
        "state_dict": state,
        "meta": {
            "CLASSES": ("cat", "dog"),
            "epoch": 3,
            "seed": np.int64(3),
            "array": np.arange(4),
            "path": argparse.Namespace(a=1),
            "set": {1, 2},
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": [{}]},
    }
    arrays = {name: value.numpy() for name, value in state.items()}
    torch.save(content, folder / "zip.pth")
    torch.save(content, folder / "zip4.pth", pickle_protocol=4)
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": state}, folder / "own.pth")
    save_file(state, folder / "x.safetensors", metadata={"class_names": "cat"})
    for protocol in (0, 2, 5):
        (folder / f"arrays{protocol}.pkl").write_bytes(
            pickle.dumps({"model": arrays, "__author__": "x"}, protocol)
        )
    np.savez(folder / "arrays.npz", **arrays)
    np.savez_compressed(folder / "compressed.npz", **arrays)


def fuzz(tmp_path: Path, seconds: float, seed: int) -> tuple[int, str]:
    """Run the child; returns the number of executions and its account."""
    samples, scratch = tmp_path / "samples", tmp_path / "scratch"
    samples.mkdir()
    scratch.mkdir()
    make_samples(samples)
    command = [sys.executable, "-m", "tests.fuzz.child", samples, scratch, str(seed), str(seconds)]
    child = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds + 300,
    )
    kept = tmp_path / "finding.pth"
    if child.returncode:
        kept.write_bytes((scratch / "mutated.pth").read_bytes())
    assert child.returncode == 0, f"{child.stderr[-3000:]}\nThe file is {kept}, the seed {seed}"
    assert [path.name for path in scratch.iterdir()] == ["mutated.pth"]
    return int(child.stdout.split()[0]), child.stdout.strip()


def test_a_few_seconds_of_mutations(tmp_path):
    executions, _ = fuzz(tmp_path, seconds=5, seed=0)
    assert executions > 10


@pytest.mark.slow
def test_mutations(tmp_path, capsys):
    seconds = float(os.environ.get("HRNET_D2_FUZZ_SECONDS", "120"))
    seed = int(os.environ.get("HRNET_D2_FUZZ_SEED", "1"))
    executions, account = fuzz(tmp_path, seconds, seed)
    with capsys.disabled():
        print(f"\nfuzzed for {seconds:.0f} s: executions, files read, mutations: {account}")
    assert executions > seconds


def test_the_canary_sings(tmp_path):
    """Each forbidden event ends the process that fuzzes."""
    events = {
        "open": f"open({str(tmp_path / 'outside')!r}, 'w')",
        "subprocess": "import subprocess; subprocess.run(['true'])",
        "system": "os.system('true')",
        "socket": "import socket; socket.socket()",
        "exec": "exec('1')",
        "import": "import this",
        "marshal": "marshal.loads(b'N')",
    }
    for name, code in events.items():
        child = under_the_canary(tmp_path, code)
        assert child.returncode == 1 and b"CANARY" in child.stderr, (name, child.stderr)
    assert not (tmp_path / "outside").exists()


def test_the_canary_lets_python_import_its_codecs(tmp_path):
    child = under_the_canary(tmp_path, "b'a'.decode('cp1006')")
    assert child.returncode == 0, child.stderr


def under_the_canary(folder: Path, code: str) -> subprocess.CompletedProcess:
    program = (
        "import marshal, os, sys, subprocess, socket, tests.fuzz.canary as canary\n"
        f"bird = canary.Canary({str(folder / 'scratch')!r})\n"
        f"sys.addaudithook(bird); bird.armed = True\n{code}\nbird.armed = False"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
