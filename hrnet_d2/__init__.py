"""HRNet detection for Detectron2: importing this registers every component, and nothing else."""

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hrnet_d2 needs Detectron2, which is not installed: see "
        "https://detectron2.readthedocs.io/tutorials/install.html, or run `make env` in a "
        "checkout of hrnet_d2"
    ) from error

from . import checkpoint, data, model_zoo, modeling
from .config import add_hrnet_config

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "add_hrnet_config",
    "checkpoint",
    "data",
    "model_zoo",
    "modeling",
    "optimize",
]


def __getattr__(name: str):
    # Detectron2's engine and evaluation take a second to import; most uses need neither.
    if name == "Predictor":
        from .engine import Predictor

        return Predictor
    if name == "optimize":
        from .inference.optimize import optimize

        return optimize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
