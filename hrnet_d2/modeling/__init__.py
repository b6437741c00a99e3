"""Networks: tensors in, tensors out. Importing this registers them with Detectron2."""

from .backbone.hrfpn import HRFPN, build_hrnetv2p_backbone
from .backbone.hrnet import HRNet, build_hrnetv2_backbone
from .backbone.resnet_fpn import build_norm_eval_resnet_fpn_backbone
from .build import build_model
from .matcher import MaxIoUMatcher
from .meta_arch.fcos.fcos import FCOS
from .meta_arch.fcos.head import FCOSHead
from .meta_arch.htc import HybridTaskCascade
from .proposal_generator.anchors import RatioMajorAnchorGenerator
from .proposal_generator.rpn import MaxIoURPN
from .roi_heads.cascade_rcnn import MaxIoUCascadeROIHeads
from .roi_heads.htc import HTCROIHeads
from .roi_heads.htc_mask_head import HTCMaskHead
from .roi_heads.roi_heads import MaxIoUROIHeads
from .roi_heads.semantic_head import FusedSemanticHead

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
    "RatioMajorAnchorGenerator",
    "build_hrnetv2_backbone",
    "build_hrnetv2p_backbone",
    "build_model",
    "build_norm_eval_resnet_fpn_backbone",
]
