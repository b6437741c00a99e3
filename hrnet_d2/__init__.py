"""HRNet detection for Detectron2: importing this registers every component, nothing else."""

import importlib
import multiprocessing
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        checkpoint,
        data,
        engine,
        evaluation,
        export,
        inference,
        model_zoo,
        modeling,
        solver,
    )
    from .config import add_hrnet_config
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

_REGISTERING = ("checkpoint", "data", "model_zoo", "modeling")
# Detectron2's engine and evaluation take a second to import, and most uses need neither: these
# names are imported when they are first used. Name to module, and to the name in it, if any.
_LAZY: dict[str, tuple[str, str | None]] = {
    "Predictor": (".engine", "Predictor"),
    "add_hrnet_config": (".config", "add_hrnet_config"),
    "optimize": (".inference.optimize", "optimize"),
    "engine": (".engine", None),
    "evaluation": (".evaluation", None),
    "export": (".export", None),
    "inference": (".inference", None),
    "solver": (".solver", None),
    **{name: (f".{name}", None) for name in _REGISTERING},
}


def register() -> None:
    """Register every component with Detectron2, as importing this package does.

    Raises:
        ImportError: if Detectron2 is not installed, or cannot be imported.
    """
    try:
        import detectron2  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "detectron2":  # one of its own libraries, which the error names
            raise
        raise ImportError(
            "hrnet_d2 needs Detectron2, which is not installed: see "
            "https://detectron2.readthedocs.io/tutorials/install.html, or run `make env` in a "
            "checkout of hrnet_d2"
        ) from error
    importlib.import_module("torchvision")  # sets filters of warnings, which would be lost below
    with warnings.catch_warnings():
        # PyTorch 2.14 warns of what Detectron2 and fvcore do, which users cannot mend.
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
        importlib.import_module("detectron2.modeling")
    for name in (*_REGISTERING, "add_hrnet_config"):
        globals()[name] = __getattr__(name)


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


def _is_console_script() -> bool:
    """Whether this process runs ``hrnet-d2`` or ``python -m hrnet_d2.cli``.

    These read their arguments before PyTorch is imported, which takes seconds, and register then.
    """
    if multiprocessing.parent_process() is not None:  # its arguments are those of the parent
        return False
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    by_name = ["-m", "hrnet_d2.cli"]
    return program.removesuffix(".exe").removesuffix("-script.py") == "hrnet-d2" or (
        program == "-m" and any(sys.orig_argv[i : i + 2] == by_name for i in range(1, 10))
    )


if not _is_console_script():
    register()
