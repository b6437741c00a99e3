"""The C++ programs of demo/cpp, built against the torch of this environment, on real exports."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from hrnet_d2.cli import main
from hrnet_d2.export import runtime
from tests.export.models import case_config
from tests.export.test_graph import IMAGE
from tests.extras import needs_export

SOURCES = Path(__file__).parents[2] / "demo" / "cpp"
HERE = Path(torch.__file__).parent
COMPILER = shutil.which("g++")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        COMPILER is None or not (HERE / "include" / "torch" / "script.h").is_file(),
        reason="needs g++ and the headers in torch's package",
    ),
]


def build(name, folder):
    """The path of a program."""
    includes = [HERE / "include", HERE / "include" / "torch" / "csrc" / "api" / "include"]
    words = [COMPILER, "-std=c++20", SOURCES / f"{name}.cpp", "-o", folder / name]
    words += [f"-I{path}" for path in includes]
    words += [f"-L{HERE / 'lib'}", f"-Wl,-rpath,{HERE / 'lib'}", "-Wl,--no-as-needed"]
    words += ["-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    words += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    subprocess.run(list(map(str, words)), check=True)
    return folder / name


def run_export(folder, *words):
    cfg = case_config("faster_rcnn_hrnetv2p_w18", folder)
    (folder / "config.yaml").write_text(cfg.dump())
    words = [cfg.MODEL.WEIGHTS, "--config-file", str(folder / "config.yaml"), *words]
    assert main(["export", *words, "--output", str(folder / "exported")]) == 0
    return folder / "exported"


def test_torchscript(tmp_path):
    python = Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("INSTSONAME")
    operators = sorted(Path(torchvision.__file__).parent.glob("_C*.so"))
    if not (operators and python.suffix != ".a" and python.is_file()):
        pytest.skip("needs torchvision's operators and libpython as a shared library")
    folder = run_export(tmp_path, "--format", "torchscript")
    detector = runtime.load(folder, trusted=True)
    inputs = detector.prepare(np.ascontiguousarray(IMAGE[:300, :401]))
    height, width = inputs["size"][0]
    pixels = inputs["images"][0, :, :height, :width].transpose(1, 2, 0)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    words = [build("detector", tmp_path), folder / "detector.pt", operators[0], tmp_path / "pixels"]
    done = subprocess.run(
        [*map(str, words), str(height), str(width)],
        # The operators of the Python package need libpython and torch's other libraries.
        env={**os.environ, "LD_PRELOAD": str(python), "LD_LIBRARY_PATH": str(HERE / "lib")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = np.array([line.split() for line in done.stdout.splitlines()], float)
    boxes, scores, classes, _ = detector._run(inputs)
    assert len(rows) == len(scores) > 20
    np.testing.assert_array_equal(rows[:, 0], classes)
    np.testing.assert_allclose(rows[:, 1], scores, atol=1e-4)
    np.testing.assert_allclose(rows[:, 2:], boxes, atol=1e-2)


@needs_export("pt2")
def test_the_compiled_backbone(tmp_path):
    from torch._inductor import aoti_load_package

    package = run_export(tmp_path, "--format", "pt2", "--compile-backbone") / "backbone.pt2"
    words = [build("backbone", tmp_path), package, 96, 160]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    levels = aoti_load_package(str(package))(torch.linspace(0, 1, 3 * 96 * 160).view(1, 3, 96, 160))
    lines = done.stdout.splitlines()
    assert len(lines) == len(levels) == 5
    for line, level in zip(lines, levels, strict=True):
        sizes, _, mean = line.rpartition(" ")
        assert sizes == f"[{', '.join(map(str, level.shape))}]"
        assert float(mean) == pytest.approx(float(level.mean()), rel=1e-3, abs=1e-5)
