"""Post-training quantization to 8-bit integers by NNCF, on the user's own images."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["LAST_LAYERS", "quantize"]

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


def quantize(model: Any, inputs: Sequence[dict[str, np.ndarray]], keep: Sequence[str] = ()) -> Any:
    """A copy of an OpenVINO model whose convolutions and linear layers compute in int8.

    The first convolution, the last layers and all arithmetic of boxes stay in float32.

    Args:
        model: ``openvino.Model`` of a detector.
        inputs: of the graph, for images like those that it will see; some hundred are enough.
        keep: parts of names of further layers that stay in float32, such as "stage4" or
            "roi_heads.mask_head".

    Returns:
        ``openvino.Model``.
    """
    import nncf

    nncf.set_log_level("ERROR")
    return nncf.quantize(
        model,
        nncf.Dataset(list(inputs)),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=_float_operations(model, keep), validate=False),
    )


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
