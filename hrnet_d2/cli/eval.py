"""``hrnet-d2 eval``: ``train`` with ``--eval-only``."""

import argparse

from . import train

__all__ = ["main"]


def main(args: argparse.Namespace, prog: str) -> int:
    """Evaluate a checkpoint on ``DATASETS.TEST``, or on ``--val-data``."""
    args.eval_only = True
    return train.main(args, prog)
