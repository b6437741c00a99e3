"""Public names are what they say, however often and in whatever order they are used."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import hrnet_d2

MODULES = [m.name for m in pkgutil.walk_packages(hrnet_d2.__path__, "hrnet_d2.")]


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def check_face() -> None:
    """Every name of ``__all__`` is there, is listed, and functions are functions."""
    for name in hrnet_d2.__all__:
        value = getattr(hrnet_d2, name)
        assert value is getattr(hrnet_d2, name) and name in dir(hrnet_d2)
        module = name not in ("Predictor", "add_hrnet_config", "optimize")
        assert inspect.ismodule(value) == module and callable(value) != module, name


def test_names_stay_what_they_are():
    for _ in range(2):
        check_face()
        for name in MODULES:
            importlib.import_module(name)
    check_face()


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


def test_import_is_light():
    heavy = ("detectron2.engine", "detectron2.evaluation", "matplotlib", "faster_coco_eval")
    loaded = run(f"import sys, hrnet_d2\nprint([m for m in {heavy!r} if m in sys.modules])\n")
    assert loaded.strip() == "[]"


def test_an_unknown_name_is_named():
    with pytest.raises(AttributeError, match="'hrnet_d2' has no attribute 'optimise'"):
        hrnet_d2.optimise  # noqa: B018
