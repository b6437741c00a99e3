"""What pyproject.toml cannot say: `configs/` is installed as the package `hrnet_d2.configs`."""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = "hrnet_d2.configs"
FOLDERS = sorted(
    path.relative_to("configs")
    for path in Path("configs").rglob("*")
    if path.is_dir() and path.name != "__pycache__"
)

setup(
    packages=[
        *find_packages(include=["hrnet_d2", "hrnet_d2.*"]),
        CONFIGS,
        *(".".join([CONFIGS, *folder.parts]) for folder in FOLDERS),
    ],
    package_dir={CONFIGS: "configs"},
    package_data={"": ["*.json", "*.yaml", "py.typed", "assets/*"]},  # of every package
)
