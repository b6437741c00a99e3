"""The semantic branch of Hybrid Task Cascade.

Chen et al., "Hybrid Task Cascade for Instance Segmentation", https://arxiv.org/abs/1901.07518.
Follows MMDetection's ``FusedSemanticHead``, with the loss of its 2.x releases.

N images, C channels, h and w rows and columns at the branch's stride.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from fvcore.nn import weight_init
from torch import nn

__all__ = ["FusedSemanticHead"]


class FusedSemanticHead(nn.Module):
    """Sums all levels of the pyramid at one stride and predicts a semantic map and an embedding.

    The map is trained on stuff maps and not needed at test; the box and mask heads read the
    embedding.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5", "p6"),
        num_classes: int = 183,
        common_stride: int = 8,
        conv_dim: int = 256,
        num_convs: int = 4,
        ignore_value: int = 255,
        loss_weight: float = 0.2,
    ):
        """
        Args:
            input_shape: the features' shapes, by name.
            in_features: the levels to sum, finest first.
            num_classes: of the semantic map; COCO's stuff maps have 183 (ids 0 ... 182).
            common_stride: at which they are summed; exactly one of the levels must have it.
            conv_dim: channels of the branch and of the embedding.
            num_convs: number of 3x3 convolutions after the sum.
            ignore_value: label of pixels that are ignored.
            loss_weight: factor on the loss.

        Raises:
            ValueError: if no level, or more than one, has the common stride.
        """
        super().__init__()
        levels = [n for n in in_features if input_shape[n].stride == common_stride]
        if len(levels) != 1:
            strides = {n: input_shape[n].stride for n in in_features}
            raise ValueError(
                f"FusedSemanticHead needs exactly one level of the common stride {common_stride}, "
                f"got strides {strides}"
            )
        self.in_features = tuple(in_features)
        self.common_level = levels[0]
        self.common_stride = common_stride
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight

        # Their ReLU follows the resizing, see _fuse.
        self.lateral_convs = nn.ModuleList(
            Conv2d(input_shape[name].channels, conv_dim, 1) for name in in_features
        )
        self.convs = nn.ModuleList(
            Conv2d(conv_dim, conv_dim, 3, padding=1, activation=F.relu) for _ in range(num_convs)
        )
        self.conv_embedding = Conv2d(conv_dim, conv_dim, 1, activation=F.relu)
        self.conv_logits = Conv2d(conv_dim, num_classes, 1)
        for module in self.modules():
            if isinstance(module, Conv2d):
                weight_init.c2_msra_fill(module)
        # The usual scale of a classifier's initialization: the features are large, and with few
        # classes the scale above would give initial losses of 30 and more.
        nn.init.normal_(self.conv_logits.weight, std=0.01)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": input_shape,
            "in_features": node.IN_FEATURES,
            "num_classes": node.NUM_CLASSES,
            "common_stride": node.COMMON_STRIDE,
            "conv_dim": node.CONVS_DIM,
            "ignore_value": node.IGNORE_VALUE,
            "loss_weight": node.LOSS_WEIGHT,
        }

    def forward(
        self, features: dict[str, torch.Tensor], sem_seg: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Args:
            features: the pyramid, by name.
            sem_seg: (N, H, W) labels of the padded images, in training.

        Returns:
            The embedding (N, C, h, w), and in training ``{"loss_sem_seg": loss}``.
        """
        x = self._fuse(features)
        losses = {}
        if self.training:
            losses["loss_sem_seg"] = self._loss(self.conv_logits(x), sem_seg) * self.loss_weight
        return self.conv_embedding(x), losses

    def predict(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N, num_classes, h, w) semantic logits, which detection does not need."""
        return self.conv_logits(self._fuse(features))

    def _fuse(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N, C, h, w): the levels' sum after the 3x3 convolutions."""
        size = features[self.common_level].shape[-2:]
        laterals = dict(zip(self.in_features, self.lateral_convs, strict=True))
        # The common level first, as MMDetection adds them: the last bits depend on the order.
        total = F.relu(laterals.pop(self.common_level)(features[self.common_level]))
        for name, lateral in laterals.items():
            x = features[name]
            # MMDetection resizes first. A 1x1 convolution commutes with the resizing (both are
            # linear, and the resizing's weights sum to one, which leaves the bias as it is), so it
            # runs at the lower resolution.
            # (Products, since torch.export takes torch.Size.numel() for a constant.)
            if x.shape[-2] * x.shape[-1] < size[0] * size[1]:
                x = _resize(lateral(x), size)
            else:
                x = lateral(_resize(x, size))
            total = total + F.relu(x)
        for conv in self.convs:
            total = conv(total)
        return total

    def _loss(self, logits: torch.Tensor, sem_seg: torch.Tensor | None) -> torch.Tensor:
        """Cross entropy, averaged over the pixels that are not ignored; 0 if there are none.

        The labels are those of the top left pixel of each cell: MMDetection's nearest resize.
        """
        if sem_seg is None:
            raise ValueError(
                "the semantic branch needs maps (N, H, W) to train: set MODEL.META_ARCHITECTURE to "
                "HybridTaskCascade, which passes 'sem_seg' on, or MODEL.HTC.SEMANTIC_ON to False"
            )
        labels = sem_seg[:, :: self.common_stride, :: self.common_stride]
        if labels.shape[-2:] != logits.shape[-2:]:
            raise ValueError(
                f"semantic maps of size {tuple(sem_seg.shape[-2:])} do not fit logits of "
                f"{tuple(logits.shape[-2:])} at stride {self.common_stride}"
            )
        if labels.device.type == "cpu":  # on a GPU the check would synchronize
            self._check_labels(labels)
        labels = labels.to(logits.device, torch.int64, non_blocking=True)
        total = F.cross_entropy(
            logits.float(), labels, ignore_index=self.ignore_value, reduction="sum"
        )
        return total / (labels != self.ignore_value).sum().clamp(min=1)

    def _check_labels(self, labels: torch.Tensor) -> None:
        bad = (labels >= self.num_classes) | (labels < 0)
        bad &= labels != self.ignore_value
        if bad.any():
            raise ValueError(
                f"a semantic map has label {labels[bad][0].item()}, but "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {self.num_classes} (and IGNORE_VALUE "
                f"{self.ignore_value})"
            )


def _resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
