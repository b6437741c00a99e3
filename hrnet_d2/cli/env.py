"""``hrnet-d2 env``: what a report of a problem needs, and whether the installation is sound."""

import argparse
import importlib.metadata
import os
import platform
import sys

import cv2
import detectron2
import torch
import torchvision

import hrnet_d2

__all__ = ["main"]

PACKAGES = (
    "fvcore",
    "iopath",
    "numpy",
    "pycocotools",
    "faster-coco-eval",
    "safetensors",
    "pillow",
    "onnxruntime",
    "openvino",
    "tensorrt",
)
OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def main(args: argparse.Namespace, prog: str) -> int:
    """Print the environment; the status is 1 if something in it needs to be repaired."""
    rows = [
        ("hrnet_d2", f"{hrnet_d2.__version__} in {os.path.dirname(hrnet_d2.__file__)}"),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        ("torch", torch.__version__),
        ("torchvision", torchvision.__version__),
        ("Detectron2", _detectron2()),
        *((name, version) for name in PACKAGES if (version := _version(name))),
        ("OpenCV", f"{cv2.__version__} in {os.path.dirname(cv2.__file__)}"),
        ("CPU", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"),
        ("threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={_variable('OMP_NUM_THREADS')})"),
        *_gpus(),
        *((name, _variable(name)) for name in ("DETECTRON2_DATASETS", "HRNET_D2_CACHE")),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    problems = _problems()
    for problem in problems:
        print(f"\n{problem}")
    return 1 if problems else 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _variable(name: str) -> str:
    return os.environ.get(name, "not set")


def _detectron2() -> str:
    """Version and origin: the distribution that installed it, and whether it is compiled."""
    owners = importlib.metadata.packages_distributions().get("detectron2", ())
    origin = ", ".join(sorted({f"{name} {_version(name)}" for name in owners})) or "no distribution"
    try:
        from detectron2 import _C  # noqa: F401

        kind = "compiled"
    except ImportError:
        kind = "pure Python"
    folder = os.path.dirname(detectron2.__file__)
    return f"{detectron2.__version__}, {kind}, from {origin}, in {folder}"


def _gpus() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU", f"none (torch is built for CUDA {torch.version.cuda})")]
    rows = [("CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")]
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        rows.append((f"GPU {i}", f"{found.name}, {found.total_memory / 2**30:.1f} GiB"))
    return rows


def _problems() -> list[str]:
    """What to repair, with the command that does it."""
    installed = {name: version for name in OPENCVS if (version := _version(name))}
    if len(installed) < 2:
        return []
    # All of them own the folder cv2: the files are those of the one installed last.
    winner = next((n for n, version in installed.items() if cv2.__version__ in version), "unknown")
    if len({version for version in installed.values() if cv2.__version__ in version}) > 1:
        winner = "unknown"
    names = " and ".join(f"{name} {version}" for name, version in installed.items())
    keep = "opencv-python-headless" if _is_headless() else "opencv-python"
    return [
        f"{names} are installed and share one folder, so that their files are mixed: what is "
        f"imported is {cv2.__version__}, {'headless' if _is_headless() else 'with windows'} "
        f"(of {winner}). Keep one: pip uninstall -y {' '.join(installed)}, then pip install {keep}"
    ]


def _is_headless() -> bool:
    """Whether the OpenCV that is imported has no windows."""
    lines = cv2.getBuildInformation().splitlines()
    gui = next((line for line in lines if line.strip().startswith("GUI:")), "")
    return gui.strip().split(":")[-1].strip().upper() in ("NONE", "")
