from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """Read from the package's source, since importing it would need torch."""
    for line in (ROOT / "hrnet_d2" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("hrnet_d2/__init__.py has no __version__")


# The configs lie beside the package in a checkout and inside it once installed.
CONFIGS = "hrnet_d2.configs"
FAMILIES = [f"{CONFIGS}.{path.name}" for path in (ROOT / "configs").iterdir() if path.is_dir()]

setup(
    name="hrnet_d2",
    version=version(),
    description="HRNet object detection and instance segmentation for Detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["hrnet_d2", "hrnet_d2.*"]), CONFIGS, *FAMILIES],
    package_dir={CONFIGS: "configs"},
    package_data={"hrnet_d2": ["*.json", "*.yaml"], CONFIGS: ["*.yaml", "*/*.yaml"]},
    # Detectron2 is not here: it has no release on the index, and one that the user built is kept.
    install_requires=[
        "torch>=2.1",
        "torchvision",
        "fvcore",
        "iopath",
        "numpy",
        "opencv-python",
        "pycocotools",
        "faster-coco-eval",
        "safetensors",
    ],
    extras_require={"test": ["hypothesis", "pytest", "pytest-xdist", "ruff", "timm"]},
)
