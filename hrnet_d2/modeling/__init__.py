"""Networks: tensors in, tensors out.  Importing this registers them with Detectron2."""

from .hrfpn import HRFPN, build_hrnetv2p_backbone
from .hrnet import HRNet, build_hrnetv2_backbone
from .matcher import MaxIoUMatcher
from .roi_heads import MaxIoUROIHeads
from .rpn import MaxIoURPN

__all__ = [
    "HRFPN",
    "HRNet",
    "MaxIoUMatcher",
    "MaxIoUROIHeads",
    "MaxIoURPN",
    "build_hrnetv2_backbone",
    "build_hrnetv2p_backbone",
]
