"""Networks: tensors in, tensors out.  Importing this registers them with Detectron2."""

from .hrfpn import HRFPN, build_hrnetv2p_backbone
from .hrnet import HRNet, build_hrnetv2_backbone

__all__ = ["HRFPN", "HRNet", "build_hrnetv2_backbone", "build_hrnetv2p_backbone"]
