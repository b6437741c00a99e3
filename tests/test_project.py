"""What the project's files promise to those who install, build and cite it."""

import ast
import importlib.util
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import hrnet_d2

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
# Distributions of modules that bear another name, and what another requirement brings.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "faster_coco_eval": "faster-coco-eval",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
    "fsspec": "torch",
    "yaml": "yacs",
}


def names(requirements: list[str]) -> set[str]:
    """Of "numpy>=2; python_version > '3'" the "numpy"."""
    return {re.split(r"[<>=!~; \[]", line, maxsplit=1)[0].lower() for line in requirements}


def lines(path: str) -> list[str]:
    """The requirements of a requirements file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_wheel_has_every_file_and_its_metadata(tmp_path):
    import zipfile

    wheel = load_tool("check_wheel").build(tmp_path, "--no-build-isolation")
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.namelist()
        info = f"hrnet_d2-{hrnet_d2.__version__}.dist-info"
        headers = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert "hrnet_d2/py.typed" in packed
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= set(packed)
    top = {name.split("/")[0] for name in packed}
    assert top == {"hrnet_d2", info}, "nothing but the package is installed"
    for header in (
        f"Version: {hrnet_d2.__version__}",
        "License-Expression: Apache-2.0",
        "Requires-Python: >=3.10",
        "Requires-Dist: opencv-python",
        "Provides-Extra: detectron2",
    ):
        assert header in headers.splitlines(), header
    assert "hrnet-d2 = hrnet_d2.cli:main" in entry_points


def test_the_headless_environment_has_the_same_dependencies():
    """requirements-headless.txt is pyproject's list with OpenCV's other build."""
    stated = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["detectron2"]]
    expected = ["opencv-python-headless" if line == "opencv-python" else line for line in stated]
    assert lines("requirements-headless.txt") == expected


def test_pins_cover_what_is_needed_and_suit_this_python():
    pinned = names(lines("requirements.txt"))
    extras = PROJECT["optional-dependencies"]
    needed = names([*PROJECT["dependencies"], *extras["test"], *extras["docs"]])
    assert needed - pinned == {"opencv-python"} and "opencv-python-headless" in pinned
    # A package may have a pin per Python; no Python may get two, or none.
    for minor in range(10, 14):
        chosen = []
        for line in lines("requirements.txt"):
            requirement, _, marker = line.partition(";")
            match = re.fullmatch(r'\s*python_version (>=|<) "3\.(\d+)"', marker)
            assert match or not marker, f"a marker that this test does not read: {line}"
            newer = match and match[1] == ">="
            if not match or (minor >= int(match[2])) == newer:
                chosen.append(requirement.strip())
        once = [re.split("[<>=]", line)[0] for line in chosen]
        assert len(once) == len(set(once)), f"Python 3.{minor}"
        assert pinned - set(map(str.lower, once)) <= {"tomli"}, f"Python 3.{minor}"


def test_what_the_package_imports_is_required():
    known = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["detectron2"])
    for extra in PROJECT["optional-dependencies"].values():
        known |= names(extra)
    unknown = {}
    for path in sorted((ROOT / "hrnet_d2").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            else:
                continue
            for module in (name.split(".")[0] for name in modules):
                if module in sys.stdlib_module_names or module in ("hrnet_d2", "detectron2"):
                    continue
                if DISTRIBUTIONS.get(module, module).lower() not in known:
                    unknown.setdefault(module, path.relative_to(ROOT).as_posix())
    assert not unknown, "not in pyproject.toml"


def test_the_package_is_typed_and_its_version_is_stated_once():
    assert (ROOT / "hrnet_d2" / "py.typed").exists()
    assert "version" in PROJECT["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hrnet_d2.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    for key in ("cff-version", "message", "title", "authors", "references"):
        assert citation[key], key
    for reference in [citation, *citation["references"]]:
        for author in reference["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"}), author
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[Unreleased\]$", changelog, re.MULTILINE)


def test_the_license_is_complete():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert re.findall(r"^   (\d)\. ", text, re.MULTILINE) == [str(i) for i in range(1, 10)]
    assert "END OF TERMS AND CONDITIONS" in text
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for project in ("MMDetection", "HRNet", "Detectron2", "MIT License"):
        assert project in notice
    images = {path.name for path in (ROOT / "tests" / "reference" / "images").iterdir()}
    assert all(image in notice for image in images), "each photograph's license is stated"


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", ".pre-commit-config.yaml"])
def test_yaml_of_the_project(path):
    assert yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_workflow_covers_the_versions_that_pyproject_states():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    rows = jobs["tests"]["strategy"]["matrix"]["include"]
    stated = {c.split(" :: ")[-1] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert {row["python"] for row in rows} == stated
    oldest = {re.split(">=", line)[0]: line for line in PROJECT["dependencies"] if ">=" in line}
    for name in ("torch", "torchvision"):
        lowest = min(
            (row[name] for row in rows), key=lambda v: tuple(int(part) for part in v.split("."))
        )
        assert lowest.startswith(oldest[name].split(">=")[1] + "."), name
    assert PROJECT["requires-python"] == ">=" + min(stated, key=lambda v: int(v.split(".")[1]))


def test_make_names_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    described = set(re.findall(r"make ([a-z-]+) ", text))
    assert targets == phony == described | {"help"}
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert all(f"make {target}" in help_text for target in targets - {"help"})


# Logs of pip as it writes them, and what the user is told.
LOGS = {
    "no such version": (
        "ERROR: Could not find a version that satisfies the requirement hypothesis==6.170.15 "
        "(from versions: 6.168.4, 6.168.5)\n"
        "ERROR: No matching distribution found for hypothesis==6.170.15\n",
        "the package index has no hypothesis==6.170.15 for Python",
    ),
    "no such version, after a retry": (
        "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError: "
        "Failed to establish a new connection'\n"
        "ERROR: Could not find a version that satisfies the requirement numpy==2.4.6 "
        "(from versions: 1.26.4, 2.2.6)\n"
        "ERROR: No matching distribution found for numpy==2.4.6\n",
        "the package index has no numpy==2.4.6 for Python",
    ),
    "no network": (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError: "
        "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution'\n"
        "ERROR: Could not find a version that satisfies the requirement torch==2.11.0 "
        "(from versions: none)\n"
        "ERROR: No matching distribution found for torch==2.11.0\n",
        "no network",
    ),
    "full disk": ("ERROR: Could not install: [Errno 28] No space left on device\n", "disk is full"),
    "a constraint": (
        "ERROR: Cannot install torch==2.15.0 because these package versions have conflicts.\n"
        "    The user requested torch==2.15.0\n"
        "    The user requested (constraint) torch<=2.14.1\n"
        "ERROR: ResolutionImpossible: for help visit the documentation\n",
        "a pip constraint of this machine excludes a pinned version: torch<=2.14.1",
    ),
    "conflicting pins": (
        "ERROR: ResolutionImpossible: for help visit the documentation\n",
        "the versions in requirements.txt exclude each other",
    ),
    "something else": (
        "ERROR: Failed building wheel for fvcore\n",
        "installing requirements.txt failed: ERROR: Failed building wheel for fvcore",
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="the script is for a POSIX shell")
@pytest.mark.parametrize("what", LOGS)
def test_setup_says_what_went_wrong(what, tmp_path):
    """The script runs as it is, in a folder whose environment has a pip that fails."""
    log, expected = LOGS[what]
    (tmp_path / "tools").mkdir()
    for name in ("requirements.txt", "setup.py", "pyproject.toml", "tools/setup_env.sh"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (tmp_path / "log").write_text(log)
    for name, body in {
        "pip": "exit 0",
        "python": f'case "$*" in "-m pip"*) cat "{tmp_path}/log"; exit 1;; *) exec '
        f'"{sys.executable}" "$@";; esac',
    }.items():
        (binaries / name).write_text(f"#!/bin/sh\n{body}\n")
        (binaries / name).chmod(0o755)
    result = subprocess.run(
        ["bash", "tools/setup_env.sh", sys.executable], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("setup: ") and expected in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_one_build_of_opencv_is_installed():
    """Two builds overwrite each other's files, and removing one breaks the other."""
    found = [name for name in metadata.packages_distributions()["cv2"] if "opencv" in name]
    assert len(set(found)) == 1, found
