"""HRNet detection for Detectron2: importing this registers every component, nothing else."""

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from . import engine, evaluation, export, inference, solver
    from .engine import Predictor
    from .inference.optimize import optimize

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "add_hrnet_config",
    "checkpoint",
    "data",
    "engine",
    "evaluation",
    "export",
    "inference",
    "model_zoo",
    "modeling",
    "optimize",
    "solver",
]

# Detectron2's engine and evaluation take a second to import, and most uses need neither: these
# names are imported when they are first used. Name to module, and to the name in it, if any.
_LAZY = {
    "Predictor": (".engine", "Predictor"),
    "optimize": (".inference.optimize", "optimize"),
    "engine": (".engine", None),
    "evaluation": (".evaluation", None),
    "export": (".export", None),
    "inference": (".inference", None),
    "solver": (".solver", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = importlib.import_module(module_name, __name__)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
