"""ResNet and ResNeXt with FPN whose normalization layers keep their running statistics.

The networks are Detectron2's; see :mod:`hrnet_d2.modeling.backbone.norm_eval` for what differs.
"""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import build_resnet_backbone

from .norm_eval import keep_running_statistics

__all__ = ["NormEvalFPN", "build_norm_eval_resnet_fpn_backbone"]


class NormEvalFPN(FPN):
    """Detectron2's ``FPN``; BatchNorm layers of its backbone stay in eval mode in training."""

    def train(self, mode: bool = True) -> "NormEvalFPN":
        """As ``nn.Module.train``, but the backbone's BatchNorm layers stay in eval mode."""
        super().train(mode)
        keep_running_statistics(self.bottom_up)
        return self


@BACKBONE_REGISTRY.register()
def build_norm_eval_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NormEvalFPN:
    """As Detectron2's ``build_resnet_fpn_backbone``, from the same keys.

    ``MODEL.RESNETS.NORM`` is "BN"; ``MODEL.BACKBONE.FREEZE_AT`` freezes whole stages.
    """
    return NormEvalFPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
