"""``hrnet-d2 eval``: ``train`` with ``--eval-only``."""

from collections.abc import Sequence

from . import train

__all__ = ["main"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Evaluate a checkpoint on ``DATASETS.TEST``, or on ``--val-data``."""
    return train.main(arguments, prog, eval_only=True)
