"""How commands end: a message for errors that a user can act on, a traceback for the others."""

import argparse
import sys
from collections.abc import Callable

from detectron2.data.detection_utils import SizeMismatchError

from hrnet_d2.checkpoint import CheckpointError
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import DatasetError
from hrnet_d2.data.bad_images import BadImageError
from hrnet_d2.engine import DivergedError, MemoryExhaustedError
from hrnet_d2.engine.memory import explain_out_of_memory
from hrnet_d2.inference.openvino_backend import BackendError
from hrnet_d2.model_zoo import ModelZooError
from hrnet_d2.text import printable

__all__ = ["USER_ERRORS", "run"]

# Their messages say what is wrong and what to do.
USER_ERRORS = (
    BackendError,
    BadImageError,
    CheckpointError,
    ConfigError,
    DatasetError,
    DivergedError,
    MemoryExhaustedError,
    ModelZooError,
    OSError,
    SizeMismatchError,
)


def run(main: Callable[[argparse.Namespace, str], int], args: argparse.Namespace, prog: str) -> int:
    """Run ``main(args, prog)`` and return the exit status.

    Errors of the user's files and arguments are printed without a traceback.
    """
    try:
        # What has no narrower explanation, such as building the model.
        with explain_out_of_memory(
            f"running {prog}",
            "MODEL.HRNETV2P.WIDTH, SOLVER.IMS_PER_BATCH or the INPUT.MIN_SIZE_* keys",
        ):
            return main(args, prog)
    except USER_ERRORS as error:
        message = printable(_without_worker(error), keep="\n\t")  # names may have escapes
        print(f"{prog}: {type(error).__name__}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130


def _without_worker(error: Exception) -> str:
    """The message; PyTorch wraps the errors of a loader's worker in its traceback."""
    text = str(error)
    if "Original Traceback (most recent call last)" not in text:
        return text
    return text.rpartition(f"{type(error).__name__}: ")[2].strip()
