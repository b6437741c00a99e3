#!/usr/bin/env python
"""Build the wheel, install it into a bare environment, and use it from another folder.

    python tools/check_wheel.py                             # newest releases that pip finds
    python tools/check_wheel.py --with torch==2.11.0 torchvision==0.26.0
    python tools/check_wheel.py --headless                  # with opencv-python-headless

The environment holds the wheel, its dependencies and the Python part of Detectron2, and nothing of
this checkout. There every module of the package is imported, every public name is read, a model
with random weights is saved by the package and a fresh process predicts with it. Needs only
the standard library, pip and a package index; downloads some gigabytes where pip has no copy of
torch.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NAMES = """
import importlib, pkgutil, sys
import hrnet_d2
assert hrnet_d2.__file__.startswith(sys.prefix), hrnet_d2.__file__
names = 0
for module in pkgutil.walk_packages(hrnet_d2.__path__, "hrnet_d2."):
    # What needs an extra is not imported.
    if module.name.startswith(("hrnet_d2.configs", "hrnet_d2.serving")):
        continue
    if module.name.endswith("__main__"):
        continue
    module = importlib.import_module(module.name)
    for name in getattr(module, "__all__", ()):
        getattr(module, name)
        names += 1
for name in hrnet_d2.__all__:
    getattr(hrnet_d2, name)
print(f"{names} public names")
"""

SAVE = """
from detectron2.modeling import build_model
import hrnet_d2
cfg = hrnet_d2.model_zoo.get_config("faster_rcnn_hrnetv2p_w18_1x_coco").clone()
cfg.defrost()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.HRNETV2P.NORM = "GN"  # an untrained BatchNorm has no statistics to predict with
cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
cfg.INPUT.MIN_SIZE_TEST = 192
cfg.MODEL.WEIGHTS = "random.pth"
hrnet_d2.checkpoint.Checkpointer(build_model(cfg), ".").save("random")
with open("config.yaml", "w") as file:
    file.write(cfg.dump())
"""

PREDICT = """
import numpy as np
from detectron2.config import get_cfg
import hrnet_d2
cfg = get_cfg()
hrnet_d2.add_hrnet_config(cfg)
cfg.merge_from_file("config.yaml")
image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
instances = hrnet_d2.Predictor(cfg)(image)["instances"]
boxes = instances.pred_boxes.tensor
assert len(boxes) == 100 and bool(boxes.isfinite().all()), boxes
assert instances.image_size == (120, 160)
print(f"{len(boxes)} detections")
"""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command, with nothing of this checkout on Python's path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], cwd=cwd, env=environment, check=True)


def tracked(*paths: str) -> list[str]:
    """The files under ``paths`` that git tracks, relative to the checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "--", *paths], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return listing.stdout.splitlines()


def build(folder: Path, *options: str) -> Path:
    """Build the wheel into ``folder`` and check that no file of the package is missing from it.

    It is built from a copy of the tracked files: what earlier builds left in the checkout would
    otherwise be packed too.
    """
    source = folder / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *options, "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    expected = {
        f"hrnet_d2/{name}" if name.startswith("configs/") else name
        for name in tracked("hrnet_d2", "configs")
    }
    missing = sorted(expected - packed)
    if missing:
        raise SystemExit(f"the wheel lacks {', '.join(missing)}: see package_data in setup.py")
    return wheel


def install(wheel: Path, folder: Path, headless: bool, extra: list[str]) -> Path:
    """Make the environment; returns its Python."""
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    pip = [python, "-m", "pip", "install", "-q"]
    # The lines of the documentation.
    if headless:
        run(*pip, "-r", ROOT / "requirements-headless.txt", *extra)
        run(*pip, "--no-deps", wheel)
    else:
        run(*pip, f"{wheel}[detectron2]", *extra)
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    run(
        *pip, "--no-deps", "--only-binary=:all:", "--python-version", "3.10",
        "--platform", "linux_x86_64", "--target", site, "-r", ROOT / "requirements-detectron2.txt",
    )  # fmt: skip
    return python


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--headless", action="store_true", help="take OpenCV's headless build")
    parser.add_argument("--with", nargs="*", default=[], dest="extra", metavar="REQUIREMENT")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hrnet_d2_wheel_") as temporary:
        folder = Path(temporary)
        wheel = build(folder)
        print(f"wheel: {wheel.name}, complete", flush=True)
        python = install(wheel, folder / "venv", args.headless, args.extra)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        for step in (NAMES, SAVE, PREDICT):
            run(python, "-I", "-W", "ignore", "-c", step, cwd=elsewhere)
        run(python.with_name("hrnet-d2" + python.suffix), "--help", cwd=elsewhere)
    print("wheel: installed, imported and predicted")


if __name__ == "__main__":
    main()
