"""Mask head of Hybrid Task Cascade, with mask information flow between the stages."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from fvcore.nn import weight_init

__all__ = ["HTCMaskHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class HTCMaskHead(MaskRCNNConvUpsampleHead):
    """Mask R-CNN's head, which can add the features of the stage before to its own input.

    Follows MMDetection's ``HTCMaskHead``.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, with_conv_res: bool = False, **kwargs: Any):
        """
        Args:
            input_shape: of a region's features.
            with_conv_res: whether there is a stage before it.
            kwargs: of Detectron2's ``MaskRCNNConvUpsampleHead``.
        """
        super().__init__(input_shape, **kwargs)
        self.num_convs = len(self.conv_norm_relus)
        if with_conv_res:
            channels = self.conv_norm_relus[-1].out_channels
            self.conv_res = Conv2d(channels, input_shape.channels, 1, activation=F.relu)
            weight_init.c2_msra_fill(self.conv_res)

    def features(self, x: torch.Tensor, last: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            x: (R, C, 14, 14) features of R regions.
            last: what this method returned for the stage before; None for the first stage.

        Returns:
            (R, C, 14, 14), before the upsampling.
        """
        if last is not None:
            x = x + self.conv_res(last)
        for i in range(self.num_convs):
            x = getattr(self, f"mask_fcn{i + 1}")(x)
        return x

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Features (R, C, 14, 14) to mask logits (R, K, 28, 28)."""
        return self.predictor(self.deconv_relu(self.deconv(features)))

    def layers(self, x: torch.Tensor, last: torch.Tensor | None = None) -> torch.Tensor:
        """Mask logits (R, K, 28, 28); arguments as for :meth:`features`."""
        return self.predict(self.features(x, last))
