"""The console script ``hrnet-d2 COMMAND``: one module for each command, imported when it is run.

The arguments are read first, by :mod:`hrnet_d2.arguments`, and the rest of the package is imported
after them: help and errors of arguments need no PyTorch.
"""

import importlib
import sys
from collections.abc import Sequence

from hrnet_d2 import register

__all__ = ["COMMANDS", "main"]

# Name and summary. The module of the same name in `arguments` has ``parser(prog)``, the one here
# has ``main(args, prog)``.
COMMANDS = {
    "train": "train a model, on COCO or on custom data",
    "eval": "evaluate a checkpoint",
    "predict": "run a model on images and videos: pictures, COCO, CSV, Parquet, ...",
    "serve": "a live page in the browser, and detections over HTTP",
    "check": "find what is wrong with custom data, and summarize them",
    "browse": "draw what the network is trained on, after augmentation",
    "report": "write a page that shows what a detector gets right and wrong",
    "convert": "convert a checkpoint to this package's names, and account for every tensor",
    "export": "export a model for ONNX Runtime, OpenVINO or PyTorch without this package",
    "benchmark": "measure speed, memory and loss curves",
    "env": "print versions, hardware and threads, and check the installation",
}
WIDTH = max(map(len, COMMANDS))
USAGE = "usage: hrnet-d2 COMMAND ...\n\n" + "".join(
    f"  {name:{WIDTH}}  {summary}\n" for name, summary in COMMANDS.items()
)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command and its arguments; default: those of this process.
        prog: name of the program in help and messages; default: ``hrnet-d2 COMMAND``.

    Returns:
        The exit status: 0, 1 if the command failed, 2 if the arguments are wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE + "\nhrnet-d2 COMMAND --help lists the arguments of a command")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"hrnet-d2: there is no command {name!r}{hint}\n\n{USAGE}", file=sys.stderr, end="")
        return 2
    prog = prog or f"hrnet-d2 {name}"
    parser = importlib.import_module(f"hrnet_d2.arguments.{name}").parser(prog)
    args = parser.parse_args(rest)
    args.command = " ".join([prog, *rest])
    register()
    from .errors import run

    return run(importlib.import_module(f"{__name__}.{name}").main, args, prog)
