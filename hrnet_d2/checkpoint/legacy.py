"""MMDetection 1.x checkpoints in the order of classes of 2.x.

In 1.x the background is the first class and in 2.x the last, and class-specific box regression and
masks have an output for it that 2.x has not.  Only the layout is converted here: 1.x also computed
boxes with sides of one pixel more and rounded anchors, which no renaming of weights can undo.
"""

import re

import torch

__all__ = ["WARNING", "upgrade"]

WARNING = (
    "MMDetection 1.x trained these weights with other arithmetic (box sides of one pixel more, "
    "rounded anchors, other RoIAlign): expect up to one AP less than published"
)
_HEAD = re.compile(r"(bbox_head|mask_head|semantic_head)\.")
_BOX_LAYER = re.compile(r"(roi_head\.bbox_head\.(?:\d+\.)?)(fc_cls|fc_reg)\.(weight|bias)")
_MASK_LAYER = re.compile(r"roi_head\.mask_head\.((?:\d+\.)?)conv_logits\.(weight|bias)")


def upgrade(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names and rows of a two-stage 1.x checkpoint as in 2.x; a one-stage one is as it is.

    Rows are moved for weights and biases alike. (MMDetection's own converter drops the last bias
    where it drops the first row of the weights.)

    Args:
        tensors: MMDetection 1.x name to tensor.

    Returns:
        2.x name to tensor.
    """
    if not any(name.startswith("rpn_head.") for name in tensors):
        return tensors  # sigmoid classes without a background
    upgraded = {
        _HEAD.sub(r"roi_head.\1.", name, count=1) if _HEAD.match(name) else name: value
        for name, value in tensors.items()
    }
    classes = next(
        (len(value) for name, value in upgraded.items() if name.endswith("fc_cls.bias")), None
    )
    for name, value in upgraded.items():
        if match := _BOX_LAYER.fullmatch(name):
            if match[2] == "fc_cls":
                upgraded[name] = torch.cat([value[1:], value[:1]])
            elif len(value) == 4 * classes:  # class-specific, with the background's four
                upgraded[name] = value[4:]
        elif _MASK_LAYER.fullmatch(name) and len(value) == classes:
            upgraded[name] = value[1:]
    return upgraded
