#!/usr/bin/env python
"""Convert a checkpoint of MMDetection, official HRNet, timm or torchvision to our format.

    python tools/convert_checkpoint.py SRC DST
    python tools/convert_checkpoint.py SRC DST --config faster_rcnn_hrnetv2p_w18_1x_coco

Prints what became of every tensor. DST (.pth or .safetensors, tensors only) is written where all of
them are accounted for; otherwise the exit status is 1. `MODEL.WEIGHTS` takes SRC as well as DST:
conversion serves to share one, or to check it.
"""

import argparse
import sys
from collections import Counter

from detectron2.modeling import build_model
from tabulate import tabulate

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import CheckpointError, convert


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", help="file or URL, of any supported format")
    parser.add_argument("target", metavar="DST", help=".pth or .safetensors to write")
    parser.add_argument("--config", help="name in the zoo, or file, of the model that it must fit")
    parser.add_argument("--quiet", action="store_true", help="only the summary")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE of configs")
    args = parser.parse_args(arguments)

    try:
        model = _build(args.config, args.opts) if args.config else None
        conversion = convert(args.source, args.target, model)
    except (CheckpointError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
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


def _build(config: str, options: list[str]):
    return build_model(model_zoo.load_config(config, [*options, "MODEL.DEVICE", "cpu"]))


if __name__ == "__main__":
    sys.exit(main())
