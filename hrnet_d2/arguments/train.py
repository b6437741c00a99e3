"""Arguments of ``hrnet-d2 train``: Detectron2's, and custom data by path."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from .choices import TRACKERS

__all__ = ["parser"]

DATA_OPTIONS = ("--train-data", "--val-data")
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")

EPILOG = """
Examples:

Run on single machine:
    $ {0} --num-gpus 8 --config-file cfg.yaml

Train on custom data, in COCO's format or as a folder of YOLO, Pascal VOC or Roboflow:
    $ {0} --config-file cfg.yaml --train-data train.json images/ --val-data val.json images/
    $ {0} --config-file cfg.yaml --train-data folder/

Change some config options:
    $ {0} --config-file cfg.yaml MODEL.WEIGHTS model.pth SOLVER.BASE_LR 0.001

Run on multiple machines:
    (machine0)$ {0} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {0} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""


def parser(prog: str = "train_net.py") -> argparse.ArgumentParser:
    """The parser of training, evaluation and browsing.

    Args:
        prog: the name of the program, for its help.
    """
    found = _Parser(
        prog=prog,
        epilog=EPILOG.format(prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_detectron2(found)
    found.add_argument(
        "--overwrite",
        action="store_true",
        help="delete the checkpoints of an earlier run in OUTPUT_DIR and start a new one",
    )
    found.add_argument(
        "--weights",
        metavar="FILE",
        help="short for MODEL.WEIGHTS FILE; without --config-file the checkpoint brings its config",
    )
    found.add_argument(
        "--report",
        action="store_true",
        help="after the evaluation, write report.html beside its results: AP by class and size, "
        "kinds of mistakes, and images",
    )
    found.add_argument(
        "--tracker",
        action="append",
        choices=TRACKERS,
        help="send metrics and pictures to this tracker as well; may be given twice",
    )
    custom = found.add_argument_group("custom data (COCO, YOLO, Pascal VOC, CVAT, Label Studio)")
    for option, purpose in (("--train-data", "train on"), ("--val-data", "evaluate on")):
        custom.add_argument(
            option,
            nargs=2,
            metavar=("DATA", "[IMAGES]"),
            help=f"data to {purpose}: the folder or description of a dataset, or a COCO file and "
            "its folder of images",
        )
    custom.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="X",
        help="evaluate on this part of the training images, and train on the others (0.2: a fifth)",
    )
    custom.add_argument(
        "--train-sem-seg", metavar="DIR", help="folder of stuff maps of the training images (HTC)"
    )
    return found


def _add_detectron2(found: argparse.ArgumentParser) -> None:
    """The arguments of Detectron2's ``default_argument_parser``, whose module needs PyTorch."""
    found.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="a path, or a name of the model zoo",
    )
    found.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR"
    )
    found.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    found.add_argument("--num-gpus", type=int, default=1, help="GPUs of each machine (default: 1)")
    found.add_argument("--num-machines", type=int, default=1, help="machines (default: 1)")
    found.add_argument(
        "--machine-rank", type=int, default=0, help="of this machine among them (default: 0)"
    )
    found.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where the processes meet, such as tcp://HOST:29500; default, on one machine: a free "
        "port",
    )
    found.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="changes of the config, after all other arguments",
    )


class _Parser(argparse.ArgumentParser):
    """Lets the second value of options for data be left out, and options follow KEY VALUE."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        args = _completed([word for arg in args for word in _divided(arg)])
        found, rest = super().parse_known_args(args, namespace)
        late, pairs = self._late_options(found.opts)
        if late:  # such as --resume, added to the end of the command
            first = args[: len(args) - len(found.opts)]
            found, rest = super().parse_known_args(_completed([*late, *first, *pairs]), namespace)
        for option in DATA_OPTIONS:
            name = option[2:].replace("-", "_")
            if getattr(found, name, None):
                setattr(found, name, [value for value in getattr(found, name) if value])
        return found, rest

    def _late_options(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Options with their values, where a key would stand; and the other words."""
        late: list[str] = []
        pairs: list[str] = []
        while words:
            count = 2
            if words[0].partition("=")[0] in self._option_string_actions:
                count = 1
                while count < len(words) and not (
                    words[count].startswith("--") or CONFIG_KEY.fullmatch(words[count])
                ):
                    count += 1
                late += words[:count]
            else:
                pairs += words[:count]
            words = words[count:]
        return late, pairs


def _completed(args: list[str]) -> list[str]:
    """With an empty second value for options of data that have one."""
    for option in DATA_OPTIONS:
        if option in args and _is_single(args[args.index(option) + 1 :]):
            args.insert(args.index(option) + 2, "")
    return args


def _divided(arg: str) -> list[str]:
    """``--train-data=PATH`` as two words, as its second value is one of its own."""
    option, equals, value = arg.partition("=")
    return [option, value] if equals and option in DATA_OPTIONS else [arg]


def _is_single(values: Sequence[str]) -> bool:
    """Whether a path is the only value of its option: another option or config key follows."""
    if not values or values[0].startswith("--"):
        return False  # an error, which the parser tells
    following = values[1] if len(values) > 1 else "--"
    return following.startswith("--") or (
        CONFIG_KEY.fullmatch(following) is not None and not os.path.exists(following)
    )
