"""Post-training quantization to 8-bit integers by NNCF, on the user's own images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_d2.data import read_image

from .errors import ExportError

__all__ = ["Calibration", "Sample", "check_keep", "layer_groups", "quantize"]

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Of a folder with more images, so many at equal distances: more change nothing and take long.
MOST_IMAGES = 300

# Parts of the names of the layers whose results are scores, deltas or masks: small, and a step of
# 1/255 of their range shows in the detections.
LAST_LAYERS = (
    "objectness_logits",
    "anchor_deltas",
    "predictor",  # of boxes and of masks
    "cls_score",
    "bbox_pred",
    "ctrness",
)
PRODUCTS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul")
NECK = "backbone.fpn_output"
# Parts of names, each of layers that follow each other.
GROUPS = (
    *("layer1", "stage2", "stage3", "stage4", "reduction_conv", "fpn_output"),
    *("rpn_head", "box_head", "mask_head", "semantic_head", "cls_subnet", "bbox_subnet"),
)

Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """What quantization takes.

    Attributes:
        files: images like those that the detector will see.
        keep: parts of names of further layers that stay in float32, such as "stage4" or
            "roi_heads.mask_head".
    """

    files: Sequence[Path]
    keep: Sequence[str] = ()

    @classmethod
    def of_folder(cls, folder: Path, keep: Sequence[str] = ()) -> "Calibration":
        """The images in a folder, at most 300 of them.

        Raises:
            FileNotFoundError: if there is no such folder, or no image in it.
            ImageReadError: if one of them cannot be decoded.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder} to calibrate on")
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise FileNotFoundError(f"There is no image in the folder {folder} to calibrate on")
        count = min(len(files), MOST_IMAGES)
        files = [files[i * len(files) // count] for i in range(count)]
        for file in files:  # now, since recording the graph takes minutes
            read_image(str(file))
        return cls(files, keep)

    def sample(self, file: Path, prepare: Callable[[np.ndarray], Sample]) -> Sample:
        """The graph's inputs for an image.

        Raises:
            ExportError: if the image is too thin.
        """
        try:
            return prepare(read_image(str(file)))
        except ValueError as error:
            raise ExportError(f"{file} cannot be used to calibrate: {error}") from error


def layer_groups(model: Any) -> list[str]:
    """Parts of names of the layers of an OpenVINO model, for ``keep``."""
    return _groups(_layers(model))


def check_keep(keep: Sequence[str], layers: Sequence[str]) -> None:
    """
    Args:
        keep: parts of names of layers.
        layers: names of the parameters that the layers multiply by.

    Raises:
        ExportError: if there is no layer of such a name.
    """
    for part in keep:
        if not any(part in name for name in layers):
            raise ExportError(
                f"--keep {part}: no layer has a name with {part!r}. Names have, for example, "
                f"{', '.join(_groups(layers))}"
            )


def quantize(model: Any, calibration: Calibration, prepare: Callable[[np.ndarray], Sample]) -> Any:
    """A copy of an OpenVINO model whose convolutions and linear layers compute in int8.

    The first convolution, the last layers and all arithmetic of boxes stay in float32.

    Args:
        model: ``openvino.Model`` of a detector.
        calibration: the images, and what stays in float32.
        prepare: from a BGR image to the graph's inputs.

    Returns:
        ``openvino.Model``.

    Raises:
        ExportError: if there is no layer of a name in ``keep``, or an image is too thin.
    """
    import nncf

    check_keep(calibration.keep, _layers(model))
    nncf.set_log_level("ERROR")
    return nncf.quantize(
        model,
        nncf.Dataset(calibration.files, lambda file: calibration.sample(file, prepare)),
        subset_size=len(calibration.files),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            names=_float_operations(model, calibration.keep), validate=False
        ),
    )


def _layers(model: Any) -> list[str]:
    return [_weight(op) for op in model.get_ordered_ops() if op.get_type_name() in PRODUCTS]


def _groups(layers: Sequence[str]) -> list[str]:
    return [group for group in GROUPS if any(group in name for name in layers)]


def _float_operations(model: Any, keep: Sequence[str]) -> list[str]:
    """Names of the operations that stay in float32."""
    operations = model.get_ordered_ops()
    products = [op for op in operations if op.get_type_name() in PRODUCTS]
    backbone = _upstream([op for op in products if NECK in _weight(op)])
    kept = [products[0].get_friendly_name()]
    for op in operations:
        name = op.get_friendly_name()
        if op.get_type_name() in PRODUCTS:
            if any(part in _weight(op) for part in (*LAST_LAYERS, *keep)):
                kept.append(name)
        elif name not in backbone and op.get_type_name() != "Constant":
            kept.append(name)
    return kept


def _weight(operation: Any) -> str:
    """The name of the parameter that a product multiplies by; "" if there is none."""
    for position in (1, 0):
        node = operation.input_value(position).get_node()
        while node.get_type_name() in ("Convert", "Transpose", "Reshape", "Unsqueeze"):
            node = node.input_value(0).get_node()
        if node.get_type_name() == "Constant":
            return str(node.get_friendly_name())
    return ""


def _upstream(operations: Sequence[Any]) -> set[str]:
    """Names of the operations and of all that they compute with."""
    names: set[str] = set()
    waiting = list(operations)
    while waiting:
        operation = waiting.pop()
        name = operation.get_friendly_name()
        if name not in names:
            names.add(name)
            waiting += _sources(operation)
    return names


def _sources(operation: Any) -> Iterator[Any]:
    for value in operation.input_values():
        yield value.get_node()
