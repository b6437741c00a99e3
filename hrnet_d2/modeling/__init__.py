"""Networks: tensors in, tensors out.  Importing this registers them with Detectron2."""

from .cascade import MaxIoUCascadeROIHeads
from .fcos import FCOS
from .fcos_head import FCOSHead
from .hrfpn import HRFPN, build_hrnetv2p_backbone
from .hrnet import HRNet, build_hrnetv2_backbone
from .htc import HTCROIHeads, HybridTaskCascade
from .htc_mask_head import HTCMaskHead
from .matcher import MaxIoUMatcher
from .norm_eval_resnet import build_norm_eval_resnet_fpn_backbone
from .roi_heads import MaxIoUROIHeads
from .rpn import MaxIoURPN
from .semantic import FusedSemanticHead

__all__ = [
    "FCOS",
    "FCOSHead",
    "FusedSemanticHead",
    "HRFPN",
    "HRNet",
    "HTCMaskHead",
    "HTCROIHeads",
    "HybridTaskCascade",
    "MaxIoUCascadeROIHeads",
    "MaxIoUMatcher",
    "MaxIoUROIHeads",
    "MaxIoURPN",
    "build_hrnetv2_backbone",
    "build_hrnetv2p_backbone",
    "build_norm_eval_resnet_fpn_backbone",
]
