"""``hrnet-d2 convert SRC DST``: a checkpoint in this package's names, every tensor accounted for.

``MODEL.WEIGHTS`` takes SRC as well as DST: convert to share or check one.
"""

import argparse
import sys
from collections import Counter

from tabulate import tabulate
from torch import nn

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import CheckpointError, UnsafeCheckpointError, convert
from hrnet_d2.checkpoint_config import checkpoint_settings, to_yaml
from hrnet_d2.config_file import check_pairs
from hrnet_d2.modeling import build_model

__all__ = ["main"]


def main(args: argparse.Namespace, prog: str) -> int:
    """Convert, print the account, and return 1 if a tensor is not accounted for."""
    check_pairs(args.opts)
    model = _build(args.config, args.opts) if args.config else None
    conversion = convert(args.source, args.target, model, _config_text(args.source))
    if not args.quiet:
        print(tabulate(conversion.rows, headers=("in the file", "here", "shape", "")))
    checkpoint = conversion.checkpoint
    fates = Counter(row[3].split(":")[0] for row in conversion.rows)
    print(f"\n{args.source}: names of {checkpoint.layout.value}")
    print(
        f"{len(conversion.rows)} tensors: {', '.join(f'{n} {fate}' for fate, n in fates.items())}"
    )
    if checkpoint.class_names is not None:
        print(f"{len(checkpoint.class_names)} class names kept")
    if conversion.problems:
        print("\n".join(conversion.problems), file=sys.stderr)
        print("Not every tensor is accounted for: nothing was written", file=sys.stderr)
        return 1
    print(f"{'Fits ' + args.config + '. ' if args.config else ''}Written to {args.target}")
    return 0


def _config_text(source: str) -> str | None:
    """The full config that the source brings; None for a backbone, or settings that are not
    supported here (which the conversion logs)."""
    try:
        settings = checkpoint_settings(source, keep=True)
        cfg = model_zoo.config_from_checkpoint(source, keep=True)
        cfg.MODEL.WEIGHTS = ""
        return to_yaml(cfg, settings)
    except UnsafeCheckpointError:
        raise
    except CheckpointError:
        return None


def _build(config: str, options: list[str]) -> nn.Module:
    model: nn.Module = build_model(model_zoo.load_config(config, [*options, "MODEL.DEVICE", "cpu"]))
    return model
