r"""Measure inference, training, data loading and evaluation: the plain path and the fast one.

    hrnet-d2 benchmark inference --config faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml
    hrnet-d2 benchmark runtimes  --config ...           (with the extras openvino, onnx and int8)
    hrnet-d2 benchmark startup   --config ...
    hrnet-d2 benchmark growth    --config ... --switches plain default --plot growth.png
    hrnet-d2 benchmark train     --config ... --switches plain default sum+checkpoint
    hrnet-d2 benchmark curves    --config ... --switches plain default --seeds 1 2
    hrnet-d2 benchmark loop      --config ... --iterations 156 --clock cpu --threads 1
    hrnet-d2 benchmark data
    hrnet-d2 benchmark loader    --processes 0 2 4 --batch 2
    hrnet-d2 benchmark predict   --config quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml \
                                 --size 128 128 --images 1000 --repeat 3
    hrnet-d2 benchmark ray       --config quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml \
                                 --size 64 64 --images 2000                 (with the extra ray)
    hrnet-d2 benchmark tiles     --config quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml \
                                 --weights output/demo/model_final.pth --size 4000 6000
    hrnet-d2 benchmark eval      --images 5000
    hrnet-d2 benchmark serve     --weights model_final.pth --size 96 128 --batches 1 8
    hrnet-d2 benchmark fcos-postprocessing --size 800 1344 --batch 4
    hrnet-d2 benchmark htc-heads           --size 800 1344

The variants are timed interleaved in one process; figures are medians, with the minimum and the
maximum.  Weights are random unless --weights names a checkpoint, calibrated so that there are many
detections.  --json writes the figures with the command and the environment.
"""

import argparse

from .choices import CLOCKS, RUNTIMES, SWITCHES, TASKS, VARIANTS

__all__ = ["parser"]


def parser(prog: str) -> argparse.ArgumentParser:
    """The arguments of all tasks; a task reads those that it needs."""
    found = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("task", choices=TASKS)
    default = ["faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml"]
    found.add_argument("--config", nargs="+", default=default, help="as under configs/")
    found.add_argument("--size", nargs=2, type=int, default=[800, 1200], help="height, width")
    found.add_argument("--batch", type=int, default=1)
    found.add_argument("--repeat", type=int, default=5)
    found.add_argument("--device", help="default: cuda if there is a GPU, else cpu")
    found.add_argument("--threads", type=int, help="of the CPU")
    found.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="of inference and loop; cpu, with --threads 1, suits a machine that runs other jobs",
    )
    found.add_argument("--weights", help="a checkpoint for inference; default: random weights")
    found.add_argument(
        "--images",
        type=int,
        help="of the tasks eval (default 5000), predict and ray (default 1000)",
    )
    found.add_argument(
        "--streams", nargs="+", type=int, help="of the task predict (default: 1, and the default)"
    )
    found.add_argument("--tile", type=int, default=800, help="pixels, of the task tiles")
    found.add_argument("--overlap", type=float, default=0.2, help="of the task tiles")
    found.add_argument("--workers", type=int, default=4, help="of the task predict")
    found.add_argument(
        "--processes", nargs="+", type=int, default=[0, 2, 4], help="that read, of the task loader"
    )
    found.add_argument("--batch-size", type=int, help="of the task predict (default: by the size)")
    found.add_argument("--formats", default="jsonl", help="of the task predict, joined by commas")
    found.add_argument(
        "--objects",
        nargs="+",
        type=int,
        default=[100, 1000, 5000],
        help="candidates of a level, of the task fcos-postprocessing",
    )
    found.add_argument("--proposals", type=int, default=1000, help="of the task htc-heads")
    found.add_argument("--plot", help="PNG of the task growth")
    found.add_argument("--json", help="write the figures here")
    found.add_argument("--variants", nargs="*", default=[], choices=VARIANTS)
    found.add_argument(
        "--runtimes", nargs="*", choices=RUNTIMES, help="of the task of that name; default: all"
    )
    found.add_argument(
        "--switches",
        nargs="+",
        type=_switch,
        default=[],
        help=f"of training, several joined by +: {', '.join(SWITCHES)}",
    )
    found.add_argument(
        "--profile", action="store_true", help="of the task train: the share of each operator"
    )
    found.add_argument("--seeds", nargs="+", type=int, default=[1], help="of the task curves")
    found.add_argument(
        "--batches", nargs="+", type=int, default=[1], help="--batch-size of the task serve"
    )
    found.add_argument("--clients", type=int, default=64, help="of the task serve")
    found.add_argument("--seconds", type=float, default=60, help="of the task serve")
    found.add_argument("--iterations", type=int, default=100, help="of curves and loop")
    found.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    return found


def _switch(text: str) -> str:
    unknown = [name for name in text.split("+") if name not in SWITCHES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown switch {unknown[0]!r}; there are {', '.join(SWITCHES)}"
        )
    return text
