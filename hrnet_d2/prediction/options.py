"""How the work of a run is divided among threads."""

from dataclasses import dataclass

import torch

from hrnet_d2.data.image_io import MAX_PIXELS
from hrnet_d2.inference.openvino_backend import is_connected

from .detector import Detector

__all__ = ["Options", "default_streams", "streams_of"]

MOST_STREAMS = 8


@dataclass
class Options:
    """How the work is divided."""

    workers: int = 4
    """Threads that read and decode, and as many that draw and write."""
    streams: int | None = None
    """Threads that run the network; None suits the device."""
    backend: str = "opencv"
    """What decodes, as INPUT.BACKEND."""
    max_pixels: int = MAX_PIXELS
    keep_images: bool = False
    """Give the images with their predictions."""


def default_streams(on_cpu: bool) -> int:
    """On a CPU one for each core, up to 8, each with its share of the threads; on a GPU one.

    Several images side by side have no barrier in each layer, where threads wait for the last.
    """
    return min(MOST_STREAMS, torch.get_num_threads()) if on_cpu else 1


def streams_of(detector: Detector) -> int:
    """The streams that suit a detector.

    OpenVINO has threads of its own, which calls side by side would wait for.
    """
    model = getattr(getattr(detector, "predictor", None), "model", None)
    if model is not None and is_connected(model):
        return 1
    return default_streams(detector.on_cpu)
