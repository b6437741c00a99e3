"""Which layers quantization harms most: what to name in ``--keep``."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hrnet_d2.data import read_image

from . import runtime
from .checking import TOLERANCES, compare
from .quantizing import Calibration, layer_groups, quantize

if TYPE_CHECKING:
    from .exporting import Source

__all__ = ["advice"]

# Quantizing once for each group takes long: fewer images do for a comparison.
CALIBRATED, COMPARED = 30, 10
NAMED = 3


def advice(
    source: "Source",
    settings: dict[str, Any],
    calibration: Calibration,
    report: Callable[[str], None],
) -> str:
    """A sentence that names the groups of layers whose quantization changes most.

    Each group in turn stays in float32, and the detections on images of the calibration are
    compared with the model's.

    Args:
        source: of the export.
        settings: of the export.
        calibration: as it was.
        report: called with a line for each group; all take minutes.
    """
    model = source.openvino
    few = dataclasses.replace(calibration, files=calibration.files[:CALIBRATED])
    groups = [group for group in layer_groups(model) if group not in calibration.keep]
    shares: dict[str, float] = {}
    for i, group in enumerate(groups):
        shares[group] = _share(model, source, settings, few, group)
        report(f"{i + 1} of {len(groups)}: with {group} kept, {shares[group]:.0%} stay")
    if not shares:
        return "All groups of layers are in float32 already: export without --calibrate"
    best = sorted(shares, key=lambda group: -shares[group])[:NAMED]
    described = ", ".join(f"{group} ({shares[group]:.0%} of the model's)" for group in best)
    keep = " ".join([*calibration.keep, best[0]])
    return (
        f"Keep layers in float32: with each of these kept, so many detections stay: {described}. "
        f"Try --keep {keep}"
    )


def _share(
    model: Any, source: "Source", settings: dict[str, Any], calibration: Calibration, group: str
) -> float:
    """How many of the model's detections stay if one more group stays in float32."""
    import openvino

    kept = dataclasses.replace(calibration, keep=[*calibration.keep, group])
    detector = runtime.Detector(settings, lambda inputs: [])
    quantized = quantize(model, kept, detector.prepare)
    compiled = openvino.Core().compile_model(quantized, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: runtime.Inputs) -> list[np.ndarray]:
        results = compiled(inputs)
        return [results[name] for name in settings["outputs"]]

    detector = runtime.Detector(settings, run)
    predictor = source.predictor
    images = [read_image(str(file)) for file in calibration.files[:COMPARED]]
    found = compare(detector, predictor, predictor.model, images, TOLERANCES["int8"])
    return sum(c.same for c in found) / max(sum(max(c.expected, c.made) for c in found), 1)
