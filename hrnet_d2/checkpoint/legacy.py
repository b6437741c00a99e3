"""Convert MMDetection 1.x checkpoints to the class order of 2.x.

In 1.x the background is the first class and in 2.x the last, and class-specific box regression and
masks have an output for it that 2.x does not have. Only the layout is converted here. 1.x also
computed box sides one pixel longer and rounded anchors, which renaming weights cannot undo.
"""

import re

import torch

__all__ = ["WARNING", "upgrade"]

WARNING = (
    "these weights were trained with MMDetection 1.x conventions (box sides one pixel longer, "
    "rounded anchors, a different RoIAlign), and this model computes in those of 2.x: expect up to "
    "1 AP less than published. MODEL.ARITHMETIC mmdet1 reproduces them; Predictor and --eval-only "
    "set it"
)
_HEAD = re.compile(r"(bbox_head|mask_head|semantic_head)\.")
_BOX_LAYER = re.compile(r"(roi_head\.bbox_head\.(?:\d+\.)?)(fc_cls|fc_reg)\.(weight|bias)")
_MASK_LAYER = re.compile(r"roi_head\.mask_head\.((?:\d+\.)?)conv_logits\.(weight|bias)")


def upgrade(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename and reorder a two-stage 1.x checkpoint as 2.x does; return one-stage ones unchanged.

    Rows are moved in weights and biases alike. (MMDetection's own converter drops the last bias
    but the first row of the weights.)

    Args:
        tensors: tensors by their MMDetection 1.x names.

    Returns:
        The tensors by their 2.x names.
    """
    if not any(name.startswith("rpn_head.") for name in tensors):
        return tensors  # sigmoid classifiers have no background class
    upgraded = {
        _HEAD.sub(r"roi_head.\1.", name, count=1) if _HEAD.match(name) else name: value
        for name, value in tensors.items()
    }
    classes = next(
        (len(value) for name, value in upgraded.items() if name.endswith("fc_cls.bias")), -1
    )
    for name, value in upgraded.items():
        if match := _BOX_LAYER.fullmatch(name):
            if match[2] == "fc_cls":
                upgraded[name] = torch.cat([value[1:], value[:1]])
            elif len(value) == 4 * classes:  # class-specific, including the background's four
                upgraded[name] = value[4:]
        elif _MASK_LAYER.fullmatch(name) and len(value) == classes:
            upgraded[name] = value[1:]
    return upgraded
