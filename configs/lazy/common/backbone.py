# HRNetV2p of any width: one override, model.backbone.bottom_up.width.
from detectron2.config import LazyCall as L

from hrnet_d2.modeling import HRFPN, HRNet

backbone = L(HRFPN)(bottom_up=L(HRNet)(width=18), out_channels=256, stride=1)
