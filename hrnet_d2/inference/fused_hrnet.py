"""HRNet and HRFPN for inference: the same sums with less memory traffic."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import nn

from hrnet_d2.layers.norm_folding import can_fold, has_hooks
from hrnet_d2.modeling.backbone.hrfpn import HRFPN, upsample
from hrnet_d2.modeling.backbone.hrnet import (
    LEVELS,
    BasicBlock,
    Bottleneck,
    HRModule,
    HRNet,
    check_input_size,
)

from .fused_conv import FusedConv2d, can_fuse, fuse_conv

__all__ = ["FusedHRFPN", "FusedHRNet", "can_rewrite"]

PIECE_BYTES = 30 * 2**20


def can_rewrite(module: HRNet | HRFPN) -> bool:
    """Whether a backbone or neck has a fast form: its normalization layers must fold.

    Of a neck only its own layers count, not its backbone's.  Subclasses that compute something else
    have none, nor those with hooks, which the fast form would not call.
    """
    kind = HRFPN if isinstance(module, HRFPN) else HRNet
    methods = ("forward", "_mix" if kind is HRFPN else "_forward")
    if any(getattr(type(module), name) is not getattr(kind, name) for name in methods):
        return False
    if has_hooks(module):
        return False
    if isinstance(module, HRFPN):
        names = [name[1:] for name in module._out_features]
        convs = [getattr(module, f"fpn_output{name}") for name in names]
        return all(can_fuse(conv) for conv in [module.reduction_conv, *convs])
    leaves = [m for m in module.modules() if next(m.children(), None) is None]
    if any(map(has_hooks, module.modules())):
        return False
    plain = (nn.ReLU, nn.Upsample)
    return all(type(m) in plain or can_fuse(m) or can_fold(m) for m in leaves if not _is_list(m))


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.Sequential))


def _fuse(layers: Any) -> nn.Sequential:
    """Sequences of convolution, norm and perhaps ReLU to one layer each, without upsampling."""
    fused: list[Any] = []
    for module in layers:
        if isinstance(module, nn.Sequential):
            fused.extend(_fuse(module))
        elif isinstance(module, nn.Conv2d):
            fused.append(module)
        elif isinstance(module, nn.ReLU):
            fused[-1].relu = True
        elif not isinstance(module, nn.Upsample):
            fused[-1] = FusedConv2d(fused[-1], module)
    return nn.Sequential(*fused)


def _add_upsampled(fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """``fine`` plus ``coarse`` with each pixel repeated twice a side."""
    return fine + F.interpolate(coarse, scale_factor=2, mode="nearest")


def _at_once(calls: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    """Results of calls that do not need each other.

    A CUDA graph that is being captured gets a path of its own for each, which the GPU may run side
    by side: the coarse branches alone do not fill it.
    """
    if torch.compiler.is_compiling() or not _is_capturing():
        return [call() for call in calls]
    main = torch.cuda.current_stream()
    results: list[torch.Tensor | None] = [None] * len(calls)
    sides = [_side_stream(main.device, i) for i in range(1, len(calls))]
    for i, side in enumerate(sides, start=1):
        side.wait_stream(main)
        with torch.cuda.stream(side):
            results[i] = calls[i]()
    results[0] = calls[0]()
    for side in sides:
        main.wait_stream(side)
    return cast(list[torch.Tensor], results)


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@cache
def _side_stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class _FusedBlock(nn.Module):
    """A BasicBlock: two convolutions, the sum and both ReLUs inside them."""

    def __init__(self, block: BasicBlock):
        super().__init__()
        self.conv1 = FusedConv2d(block.conv1, block.bn1, relu=True)
        self.conv2 = FusedConv2d(block.conv2, block.bn2, relu=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x), x)


class _FusedBottleneck(nn.Module):
    """A Bottleneck: three convolutions, the sum and the ReLUs inside them."""

    def __init__(self, block: Bottleneck):
        super().__init__()
        self.conv1 = FusedConv2d(block.conv1, block.bn1, relu=True)
        self.conv2 = FusedConv2d(block.conv2, block.bn2, relu=True)
        self.conv3 = FusedConv2d(block.conv3, block.bn3, relu=True)
        self.downsample = None if block.downsample is None else _fuse(block.downsample)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv3(self.conv2(self.conv1(x)), shortcut)


class _FusedModule(nn.Module):
    """An HRModule whose exchange sums inside the convolutions.

    Repeating pixels commutes with sums: the coarser branches' terms are added at the coarser
    resolution and repeated by two a time, so that the finest map is passed over once.
    """

    def __init__(self, module: HRModule):
        super().__init__()
        branches: Any = module.branches
        fuse_layers: Any = module.fuse_layers
        self.branches = nn.ModuleList(
            nn.Sequential(*(_FusedBlock(block) for block in branch)) for branch in branches
        )
        self.paths = nn.ModuleList(
            nn.ModuleList(nn.Identity() if path is None else _fuse(path) for path in paths)
            for paths in fuse_layers
        )
        all_paths: Any = self.paths
        for paths in all_paths[1:]:
            paths[0][-1].relu = True  # summed last

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        branches: Any = self.branches
        xs = _at_once([partial(branch, x) for branch, x in zip(branches, inputs, strict=True)])
        return _at_once([partial(self._exchange, i, xs) for i in range(len(xs))])

    def _exchange(self, i: int, xs: list[torch.Tensor]) -> torch.Tensor:
        """Branch ``i`` with what the others add to it."""
        all_paths: Any = self.paths
        paths = all_paths[i]
        coarser = None
        for path, x in reversed(list(zip(paths[i + 1 :], xs[i + 1 :], strict=True))):
            term = path[0](x)
            coarser = term if coarser is None else _add_upsampled(term, coarser)
        total = xs[i] if coarser is None else _add_upsampled(xs[i], coarser)
        for path, x in reversed(list(zip(paths[:i], xs[:i], strict=True))):
            for layer in path[:-1]:
                x = layer(x)
            total = path[-1](x, total)
        return total if i > 0 else total.relu_()


class FusedHRNet(Backbone):
    """An ``HRNet`` on running statistics, for inference: same levels, equal to float rounding.

    Args:
        backbone: an HRNet whose normalization layers fold; keeps its weights.
    """

    def __init__(self, backbone: HRNet):
        super().__init__()
        self.channels_last = True
        self.drop_padding = False
        self._out_features = backbone._out_features
        self._out_feature_channels = backbone._out_feature_channels
        self._out_feature_strides = backbone._out_feature_strides
        self.stem = nn.Sequential(
            FusedConv2d(backbone.conv1, backbone.bn1, relu=True),
            FusedConv2d(backbone.conv2, backbone.bn2, relu=True),
            *(_FusedBottleneck(cast(Bottleneck, block)) for block in backbone.layer1),
        )
        self.transitions = nn.ModuleList(
            [
                _fuse(backbone.transition1[0]),
                _fuse(backbone.transition1[1]),
                _fuse(backbone.transition2[-1]),
                _fuse(backbone.transition3[-1]),
            ]
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(_FusedModule(module) for module in stage)
            for stage in (backbone.stage2, backbone.stage3, backbone.stage4)
        )

    def pad_channels(self, multiple: int) -> None:
        """Compute all branches with multiples of channels; those that are added stay 0."""
        for module in self.modules():
            if isinstance(module, FusedConv2d):
                module.pad_channels(multiple)
        self.drop_padding = True

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """As ``HRNet.forward``."""
        check_input_size(x)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        xs = [transition(x) for transition in self.transitions[:2]]
        stages: Any = self.stages
        for stage, transition in zip(stages, (None, *self.transitions[2:]), strict=True):
            if transition is not None:
                xs = [*xs, transition(xs[-1])]
            for module in stage:
                xs = module(*xs)
        maps = {name: x for name, x in zip(LEVELS, xs, strict=True) if name in self._out_features}
        if self.drop_padding:
            maps = {name: x[:, : self._out_feature_channels[name]] for name, x in maps.items()}
        return maps


class FusedHRFPN(Backbone):
    """An ``HRFPN`` for inference: same levels, equal to float rounding.

    The 1x1 convolution of the concatenated maps is the sum of one for each branch, and it commutes
    with bilinear upsampling.  So no map is concatenated, and every branch is mixed at its own
    resolution.  A pooled level comes from the one before: means of means of equal
    windows.
    """

    def __init__(self, neck: HRFPN, bottom_up: Backbone):
        """
        Args:
            neck: without normalization layers, or with those that fold; keeps its weights.
            bottom_up: the backbone to run instead of the neck's.
        """
        super().__init__()
        self._out_features = neck._out_features
        self._out_feature_channels = neck._out_feature_channels
        self._out_feature_strides = neck._out_feature_strides
        self.bottom_up = bottom_up
        self.in_features = neck.in_features
        self.pool = neck.pool
        mixed = fuse_conv(neck.reduction_conv)
        shapes = neck.bottom_up.output_shape()
        channels = [shapes[name].channels for name in self.in_features]
        self.mix_relu = mixed.relu
        self.mix = nn.ModuleList(_split(mixed, channels))
        self.outputs = nn.ModuleList(
            fuse_conv(getattr(neck, f"fpn_output{name[1:]}")) for name in self._out_features
        )

    def pad_channels(self, multiple: int) -> None:
        """As :meth:`FusedHRNet.pad_channels`, for a neck on such a backbone."""
        if isinstance(self.bottom_up, FusedHRNet):
            self.bottom_up.pad_channels(multiple)
            self.bottom_up.drop_padding = False
            for module in self.mix:
                cast(FusedConv2d, module).pad_channels(multiple)

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """As ``HRFPN.forward``."""
        features = self.bottom_up(x)
        level = self._mix([features[name] for name in self.in_features])
        outputs = {}
        for i, (name, conv) in enumerate(zip(self._out_features, self.outputs, strict=True)):
            if i > 0:
                # A very thin map has no two rows (or columns) left to pool.
                window = [min(2, size) for size in level.shape[-2:]]
                level = self.pool(level, kernel_size=window, stride=window)
            outputs[name] = conv(level)
        return outputs

    def _mix(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Branches, finest first, to one map (N, out_channels, H, W) at the finest resolution."""
        if maps[0].device.type == "cuda":
            return self._mix_concatenated(maps)
        total = self.mix[0](maps[0])
        for i in range(1, len(maps)):
            _add_resized(total, self.mix[i](maps[i]), 2**i)
        return total.relu_() if self.mix_relu else total

    def _mix_concatenated(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """As it is published. A GPU resizes slowly, and there is less to resize than when mixed."""
        mix: Any = self.mix
        x = torch.cat([maps[0], *(upsample(m, 2**i) for i, m in enumerate(maps[1:], 1))], dim=1)
        y = F.conv2d(x, torch.cat([conv.weight for conv in mix], dim=1), mix[0].bias)
        return y.relu_() if self.mix_relu else y


def _add_resized(total: torch.Tensor, coarse: torch.Tensor, factor: int) -> None:
    """Add ``coarse``, upsampled, to ``total`` in place; on the CPU some channels at a time.

    The allocator gives blocks above 32 MiB back to the system, and getting their pages anew costs
    several times what the upsampling does.
    """
    channels = total.shape[1]
    if total.device.type == "cpu":
        bytes_of_channel = max(1, total[:, 0].numel() * total.element_size())
        channels = max(16, PIECE_BYTES // bytes_of_channel)
    for start in range(0, total.shape[1], channels):
        piece = slice(start, start + channels)
        total[:, piece] += upsample(coarse[:, piece], factor)


def _split(conv: FusedConv2d, channels: list[int]) -> list[FusedConv2d]:
    """A convolution of concatenated maps to one for each; the first has the bias, none a ReLU."""
    parts = []
    for i, weight in enumerate(conv.weight.split(channels, dim=1)):
        part = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False, device="meta")
        part.weight = nn.Parameter(weight)
        part.bias = conv.bias if i == 0 else None
        parts.append(FusedConv2d(part))
    return parts
