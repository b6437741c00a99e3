"""What type checkers know of ``Predictor`` and of the names that are imported when used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import numpy as np
from PIL import Image
import hrnet_d2

predictor = hrnet_d2.Predictor("model.pth")
array = np.zeros((2, 2, 3), np.uint8)
reveal_type(predictor("a.jpg"))
reveal_type(predictor(array))
reveal_type(predictor(Image.new("RGB", (2, 2))))
reveal_type(predictor([array]))
reveal_type(predictor(iter(["a.jpg"])))
reveal_type(hrnet_d2.engine.Trainer)
reveal_type(hrnet_d2.optimize)
predictor(3)
"""
ONE, MANY = "dict[str, Any]", "list[dict[str, Any]]"


@pytest.mark.slow
def test_types(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "snippet.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith("snippet.py")]
    types = [line.split('"')[1] for line in lines if "Revealed type" in line]
    assert types[:4] == [ONE, ONE, ONE, MANY], result.stdout + result.stderr
    assert types[4].endswith("Iterator[dict[str, Any]]")
    assert "hrnet_d2.engine.trainer.Trainer" in types[5] and "nn.modules.module.Module" in types[6]
    errors = [line for line in lines if ": error:" in line]
    assert len(errors) == 1 and 'argument type "int"' in errors[0]
