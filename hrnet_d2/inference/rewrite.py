"""Rewrite a network's modules for inference, whatever the network is made of."""

from typing import cast

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from hrnet_d2.layers.norm_folding import can_fold, has_hooks
from hrnet_d2.layers.roi_align import FastROIAlign
from hrnet_d2.modeling.backbone.hrfpn import HRFPN
from hrnet_d2.modeling.backbone.hrnet import HRNet

from .fused_conv import FusedConv2d, can_fuse, fuse_conv
from .fused_hrnet import FusedHRFPN, FusedHRNet, can_rewrite
from .fused_linear import FusedLinear, is_large

__all__ = ["rewrite_for_inference"]


def rewrite_for_inference(
    module: nn.Module,
    *,
    fold: bool = True,
    channels_last: bool = True,
    use_winograd: bool = True,
    channel_multiple: int = 1,
) -> nn.Module:
    """``module`` with HRNet, HRFPN, convolutions and RoIAlign in their inference form.

    Works on ``module`` in place where it is not itself replaced.  Normalization layers that use
    running statistics are folded into the convolution before them; GroupNorm stays.

    Args:
        module: a network in eval mode.
        fold: rewrite the layers; otherwise only their memory format is set.
        channels_last: keep maps in channels-last format.
        use_winograd: allow Winograd's algorithm for large 3x3 convolutions on the CPU.
        channel_multiple: of what the backbone's channels become a multiple, by zeros.

    Returns:
        The network to use instead of ``module``.
    """
    if fold:
        replaced: dict[int, nn.Module] = {}
        module = _rewrite(module, replaced)
        for m in module.modules():
            _update_lists(m, replaced)
        if channel_multiple > 1:
            _pad_channels(module, channel_multiple)
    for m in module.modules():
        if isinstance(m, FusedConv2d):
            m.use_winograd &= use_winograd
        elif isinstance(m, FusedHRNet):
            m.channels_last = channels_last
        if channels_last and isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
            weight = m.weight.detach().contiguous(memory_format=torch.channels_last)
            m.weight = nn.Parameter(weight, requires_grad=False)
    return module


def _rewrite(module: nn.Module, replaced: dict[int, nn.Module]) -> nn.Module:
    if id(module) in replaced:  # shared by two parents
        return replaced[id(module)]
    new = module
    if isinstance(module, HRFPN) and can_rewrite(module):
        bottom_up = _rewrite(module.bottom_up, replaced)
        new = FusedHRFPN(module, bottom_up)
    elif isinstance(module, HRNet) and can_rewrite(module):
        new = FusedHRNet(module)
    elif can_fuse(module):
        new = fuse_conv(cast(nn.Conv2d, module))
    elif is_large(module) and not has_hooks(module):
        new = FusedLinear(cast(nn.Linear, module))
    elif type(module) is ROIAlign and not has_hooks(module):
        new = FastROIAlign(module)
    else:
        for name, child in list(module.named_children()):
            rewritten = _rewrite(child, replaced)
            if rewritten is not child:
                setattr(module, name, rewritten)
        if isinstance(module, MaskRCNNConvUpsampleHead):
            module.deconv_relu.inplace = True  # nobody else reads what it works on
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            _fold_sequence(module)
    new.train(module.training)
    replaced[id(module)] = new
    return new


def _pad_channels(module: nn.Module, multiple: int) -> None:
    if isinstance(module, (FusedHRFPN, FusedHRNet)):
        module.pad_channels(multiple)
        return
    for child in module.children():
        _pad_channels(child, multiple)


def _fold_sequence(sequence: nn.Sequential) -> None:
    """Fold norm and ReLU layers into the convolution right before them; places stay."""
    names = list(sequence._modules)
    for before, name in zip(names, names[1:], strict=False):
        conv, layer = sequence._modules[before], sequence._modules[name]
        if not isinstance(conv, FusedConv2d) or conv.relu:
            continue
        if type(layer) is nn.ReLU and not has_hooks(layer):
            conv = FusedConv2d(conv, relu=True)  # others may have this one without the ReLU
        elif layer is not None and not isinstance(layer, nn.Conv2d) and can_fold(layer):
            folded = FusedConv2d(conv, layer)
            sequence._modules[before] = nn.Identity()
            sequence._modules[name] = folded
            continue
        else:
            continue
        sequence._modules[name] = conv
        sequence._modules[before] = nn.Identity()


def _update_lists(module: nn.Module, replaced: dict[int, nn.Module]) -> None:
    """Plain lists of layers (Detectron2's FPN keeps its convolutions in two) follow along."""
    for value in vars(module).values():
        if isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, nn.Module):
                    value[i] = replaced.get(id(item), item)
