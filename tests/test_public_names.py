"""Public names are what they say, however often and in whatever order they are used."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hrnet_d2

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [m.name for m in pkgutil.walk_packages(hrnet_d2.__path__, "hrnet_d2.")]


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def check_public_names() -> None:
    """Every name of ``__all__`` is there, is listed, and functions are functions."""
    for name in hrnet_d2.__all__:
        value = getattr(hrnet_d2, name)
        assert value is getattr(hrnet_d2, name) and name in dir(hrnet_d2)
        module = name not in ("Predictor", "add_hrnet_config", "optimize")
        assert inspect.ismodule(value) == module and callable(value) != module, name


def test_names_stay_what_they_are():
    for _ in range(2):
        check_public_names()
        for name in MODULES:
            importlib.import_module(name)
    check_public_names()


@pytest.mark.parametrize("name", MODULES)
def test_every_exported_name_exists(name):
    module = importlib.import_module(name)
    for _ in range(2):
        missing = [n for n in getattr(module, "__all__", ()) if not hasattr(module, n)]
        assert not missing


@pytest.mark.parametrize(
    "code",
    [
        "from hrnet_d2 import optimize; import hrnet_d2; assert optimize is hrnet_d2.optimize",
        "import hrnet_d2; hrnet_d2.optimize; import hrnet_d2.inference.optimize",
        "import hrnet_d2.inference.optimize; import hrnet_d2",
        "from hrnet_d2.inference.optimize import optimize; import hrnet_d2",
        "import hrnet_d2; hrnet_d2.Predictor; hrnet_d2.engine",
        "from hrnet_d2 import *",
    ],
)
def test_fresh_process_in_any_order(code):
    run(
        f"{code}\n"
        "import inspect, hrnet_d2\n"
        "for _ in range(2):\n"
        "    assert inspect.isfunction(hrnet_d2.optimize), hrnet_d2.optimize\n"
        "    assert inspect.isclass(hrnet_d2.Predictor)\n"
        "    assert inspect.ismodule(hrnet_d2.inference)\n"
        "from hrnet_d2 import optimize\n"
        "assert inspect.isfunction(optimize)\n"
    )


def _names_in_pages() -> list[tuple[str, str]]:
    """(module, name) of what the Python blocks of README and handbook take from this package."""
    texts = (page.read_text("utf-8") for page in PAGES)
    blocks = [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.S)]
    found = set()
    for node in (node for block in blocks for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hrnet_d2"):
            found.update((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "hrnet_d2":
            found.add(("hrnet_d2", node.attr))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "model_zoo":
            found.add(("hrnet_d2.model_zoo", node.attr))
    return sorted(found)


def test_names_in_readme_and_handbook_exist():
    names = _names_in_pages()
    assert ("hrnet_d2", "Predictor") in names and ("hrnet_d2.modeling", "HRNet") in names
    for module, name in 2 * (names + names[::-1]):
        getattr(importlib.import_module(module), name)
    check_public_names()


def test_names_after_a_predictor(tmp_path):
    run(
        "import torch\n"
        "import hrnet_d2\n"
        "cfg = hrnet_d2.model_zoo.get_config('faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml')\n"
        "cfg.defrost()\n"
        "cfg.MODEL.DEVICE, cfg.MODEL.HRNETV2P.WIDTH = 'cpu', 4\n"
        f"cfg.MODEL.WEIGHTS = {str(tmp_path / 'model.pth')!r}\n"
        "model = hrnet_d2.modeling.build_model(cfg)\n"
        "torch.save({'model': model.state_dict()}, cfg.MODEL.WEIGHTS)\n"
        "predictor = hrnet_d2.Predictor(cfg)\n"
        "import hrnet_d2.inference.optimize as module\n"
        "for _ in range(2):\n"
        "    assert hrnet_d2.optimize is module.optimize\n"
        "    assert module.is_optimized(hrnet_d2.optimize(predictor.model))\n"
        "assert type(predictor) is hrnet_d2.Predictor is hrnet_d2.engine.Predictor\n"
    )


def test_import_is_light():
    heavy = ("detectron2.engine", "detectron2.evaluation", "matplotlib", "faster_coco_eval")
    loaded = run(f"import sys, hrnet_d2\nprint([m for m in {heavy!r} if m in sys.modules])\n")
    assert loaded.strip() == "[]"


def test_an_unknown_name_is_named():
    with pytest.raises(AttributeError, match="'hrnet_d2' has no attribute 'optimise'"):
        hrnet_d2.optimise  # noqa: B018
