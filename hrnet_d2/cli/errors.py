"""How commands end: a message for errors that a user can act on, a traceback for the others."""

import sys
from collections.abc import Callable, Sequence

from hrnet_d2.checkpoint import CheckpointError
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import DatasetError
from hrnet_d2.engine import DivergedError, MemoryExhaustedError
from hrnet_d2.engine.memory import explain_out_of_memory
from hrnet_d2.model_zoo import ModelZooError
from hrnet_d2.text import printable

__all__ = ["USER_ERRORS", "run"]

# Their messages say what is wrong and what to do.
USER_ERRORS = (
    CheckpointError,
    ConfigError,
    DatasetError,
    DivergedError,
    MemoryExhaustedError,
    ModelZooError,
    OSError,
)


def run(main: Callable[[Sequence[str], str], int], arguments: Sequence[str], prog: str) -> int:
    """Run ``main(arguments, prog)`` and return the exit status.

    Errors of the user's files and arguments are printed without a traceback.
    """
    try:
        # What has no narrower explanation, such as building the model.
        with explain_out_of_memory(
            f"running {prog}",
            "MODEL.HRNETV2P.WIDTH, SOLVER.IMS_PER_BATCH or the INPUT.MIN_SIZE_* keys",
        ):
            return main(arguments, prog)
    except USER_ERRORS as error:
        message = printable(str(error), keep="\n\t")  # names in files may have escapes
        print(f"{prog}: {type(error).__name__}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
