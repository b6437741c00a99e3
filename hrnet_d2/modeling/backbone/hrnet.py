"""HRNetV2: the high-resolution backbone.

Four branches at strides 4, 8, 16 and 32 run in parallel and exchange information after every
module (Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition",
https://arxiv.org/abs/1908.07919). One number, the width W of the finest branch, determines the
whole network: branch ``i`` has ``W * 2**i`` channels.

Parameter names are those of the official ImageNet files and of MMDetection's ``HRNet``; below
``backbone.bottom_up.`` both load without renaming.

Shapes: N images, C channels, H and W rows and columns.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn import weight_init
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hrnet_d2.layers.norm_folding import NormFolding, Vectors, conv_norm

from .levels import Levels
from .norm_eval import AutoNormEval, keep_running_statistics

__all__ = ["HRNet", "build_hrnetv2_backbone", "check_input_size"]

STEM_CHANNELS = 64
STAGE1_CHANNELS = 256
# Modules in stages 2, 3 and 4; stage s has s branches.
MODULES_PER_STAGE = (1, 4, 3)
BLOCKS_PER_BRANCH = 4
# Detectron2's ResNet has the same names for the same strides, so stock necks and heads fit.
LEVELS = ("res2", "res3", "res4", "res5")
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")

_NormFactory = str | Callable[[int], nn.Module]


def _norm(norm: _NormFactory, channels: int) -> nn.Module:
    """Build a normalization layer; GroupNorm takes the most groups up to 32 that divide it."""
    if norm == "GN":
        # The widths 18, 36, 72 and 144 do not divide by the usual 32 groups.
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    layer = get_norm(norm, channels)
    if layer is None:
        raise ValueError(f"HRNet needs a normalization layer, got norm={norm!r}")
    return layer


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2, bias=False)
    weight_init.c2_msra_fill(conv)
    return conv


def check_input_size(x: torch.Tensor) -> None:
    """
    Raises:
        ValueError: if ``x`` is not (N, C, H, W) with H and W multiples of 32.
    """
    if x.dim() != 4 or x.shape[-2] % 32 or x.shape[-1] % 32:
        raise ValueError(
            f"HRNet's input must be (N, C, H, W) with H and W multiples of 32, got "
            f"{tuple(x.shape)}: pad it (Detectron2 pads by the backbone's size_divisibility)"
        )


class _ConvNorm(nn.Sequential):
    """Convolution, normalization and the layers that follow, if any."""

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int, norm: _NormFactory, relu: bool = True
    ):
        super().__init__(_conv(cin, cout, kernel, stride), _norm(norm, cout))
        if relu:
            self.append(nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm, *rest = self
        x = conv_norm(cast(nn.Conv2d, conv), norm, x)
        for layer in rest:
            x = layer(x)
        return x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut; the block of every branch.

    Args:
        channels: of input and output, (N, channels, H, W).
        norm: name or factory of the normalization layer.
    """

    def __init__(self, channels: int, norm: _NormFactory):
        super().__init__()
        self.conv1 = _conv(channels, channels, 3)
        self.bn1 = _norm(norm, channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = _norm(norm, channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = conv_norm(self.conv2, self.bn2, out)
        out += x
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with four-fold expansion; the block of stage 1.

    Args:
        cin: input channels, (N, cin, H, W).
        planes: channels of the 3x3 convolution; the output has ``4 * planes``.
        norm: name or factory of the normalization layer.
    """

    def __init__(self, cin: int, planes: int, norm: _NormFactory):
        super().__init__()
        cout = 4 * planes
        self.conv1 = _conv(cin, planes, 1)
        self.bn1 = _norm(norm, planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = _norm(norm, planes)
        self.conv3 = _conv(planes, cout, 1)
        self.bn3 = _norm(norm, cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _ConvNorm(cin, cout, 1, 1, norm, relu=False) if cin != cout else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = self.relu(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, out)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class HRModule(nn.Module):
    """Parallel branches, followed by an exchange between all of them.

    Args:
        channels: of each branch, finest first; branch ``i`` has ``1 / 2**i`` of the finest
            branch's resolution.
        norm: name or factory of the normalization layer.
    """

    def __init__(self, channels: Sequence[int], norm: _NormFactory):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(c, norm) for _ in range(BLOCKS_PER_BRANCH)))
            for c in channels
        )
        self.fuse_layers = nn.ModuleList(
            _module_list([self._fuse_layer(channels, i, j, norm) for j in range(len(channels))])
            for i in range(len(channels))
        )
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def _fuse_layer(
        channels: Sequence[int], i: int, j: int, norm: _NormFactory
    ) -> nn.Module | None:
        """The path from branch j to branch i; None stands for the identity."""
        if i == j:
            return None
        if j > i:  # branch j is coarser: 1x1 at its own resolution, then repeat pixels
            path = _ConvNorm(channels[j], channels[i], 1, 1, norm, relu=False)
            path.append(nn.Upsample(scale_factor=2 ** (j - i), mode="nearest"))
            return path
        # Branch j is finer: halve i - j times. Only the last step changes the channels; it has no
        # ReLU.
        steps = [_ConvNorm(channels[j], channels[j], 3, 2, norm) for _ in range(i - j - 1)]
        steps.append(_ConvNorm(channels[j], channels[i], 3, 2, norm, relu=False))
        return nn.Sequential(*steps)

    def forward(self, *xs: torch.Tensor) -> list[torch.Tensor]:
        """Maps of all branches, finest first, to maps of the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        outputs = []
        for paths in self.fuse_layers:
            terms = _terms(paths, maps)
            # Summed in the order of the branches: another order changes the last bits. The first
            # sum makes a new tensor, since every other path reads a branch's own output.
            total = next(terms) + next(terms)
            for term in terms:
                total += term
            outputs.append(self.relu(total))
        return outputs


def _module_list(modules: Sequence[nn.Module | None]) -> nn.ModuleList:
    """``nn.ModuleList`` takes None, as a placeholder that keeps the index; its stub does not."""
    return nn.ModuleList(cast(Sequence[nn.Module], modules))


def _terms(paths: nn.Module, maps: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """What each branch contributes to one output of an ``HRModule``."""
    for path, x in zip(cast(nn.ModuleList, paths), maps, strict=True):
        yield x if path is None else path(x)


@contextlib.contextmanager
def _recomputing(module: nn.Module, vectors: Vectors | None) -> Iterator[None]:
    """Run a module a second time, for its backward pass: with the folded norms of the first time,
    and without moving BatchNorm's running statistics again."""
    layers = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    saved = [(m.momentum, m.num_batches_tracked) for m in layers]
    for m in layers:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        with NormFolding.repeated(vectors):
            yield
    finally:
        for m, (momentum, tracked) in zip(layers, saved, strict=True):
            m.momentum, m.num_batches_tracked = momentum, tracked


class HRNet(Backbone):
    """The HRNetV2 backbone of any width.

    In YAML it is ``build_hrnetv2_backbone``, in a LazyConfig ``L(HRNet)(width=32)``. Follows
    MMDetection's ``HRNet`` (and the official ``cls_hrnet``) exactly.
    """

    folding: NormFolding | None = None
    # Whether it trains on channels-last maps, see hrnet_d2.layers.cpu_training.
    trains_channels_last = False

    @configurable
    def __init__(
        self,
        width: int = 32,
        *,
        norm: _NormFactory = "BN",
        norm_eval: bool | str | None = "auto",
        freeze_at: int = 0,
        fold_norm: bool = True,
        act_checkpoint: Sequence[str] = (),
        out_features: Sequence[str] = LEVELS,
        in_channels: int = 3,
    ):
        """
        Args:
            width: channels of the finest branch: 18, 32, 40 and 48 have published weights.
            norm: "BN", "FrozenBN", "SyncBN", "GN", or a callable from channels to a layer.
            norm_eval: keep batch-normalization layers on their running statistics in training
                while their weight and bias learn, as MMDetection trains its detectors (True), or
                measure the statistics (False). "auto" or None holds those that were loaded and
                measures others; the first training pass decides, see :class:`AutoNormEval`.
            freeze_at: number of stages that do not learn: 1 is the stem, 2 adds stage 1, up to 5.
            fold_norm: in training, make normalization on running statistics part of the
                convolution: same results and gradients to rounding, less memory and time.
            act_checkpoint: names among "stage1" ... "stage4" whose activations are recomputed in
                the backward pass instead of kept: same results, less memory.
            out_features: names among "res2" ... "res5" (strides 4 ... 32) to return.
            in_channels: of the image.

        Raises:
            ValueError: if an argument is not one of the above.
        """
        super().__init__()
        if width < 1:
            raise ValueError(f"HRNet's width must be positive, got {width}")
        if not 0 <= freeze_at <= len(STAGES):
            raise ValueError(f"HRNet's freeze_at must be in 0..{len(STAGES)}, got {freeze_at}")
        if norm_eval is None:
            norm_eval = "auto"
        if not isinstance(norm_eval, bool) and norm_eval != "auto":
            raise ValueError(f'HRNet\'s norm_eval must be True, False or "auto", got {norm_eval!r}')
        for name in act_checkpoint:
            if name not in STAGES[1:]:
                raise ValueError(f"HRNet's act_checkpoint must be among {STAGES[1:]}, got {name!r}")
        if not out_features or any(name not in LEVELS for name in out_features):
            raise ValueError(
                f"HRNet's out_features must be among {LEVELS}, got {list(out_features)}"
            )
        self.norm_eval = norm_eval
        self.auto_norm_eval = AutoNormEval()
        self.freeze_at = freeze_at
        self.act_checkpoint = tuple(act_checkpoint)
        channels = [width * 2**i for i in range(len(LEVELS))]
        self._out_features = [name for name in LEVELS if name in out_features]
        self._out_feature_channels = dict(zip(LEVELS, channels, strict=True))
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(LEVELS)}

        self.conv1 = _conv(in_channels, STEM_CHANNELS, 3, stride=2)
        self.bn1 = _norm(norm, STEM_CHANNELS)
        self.conv2 = _conv(STEM_CHANNELS, STEM_CHANNELS, 3, stride=2)
        self.bn2 = _norm(norm, STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(
            Bottleneck(STEM_CHANNELS, STAGE1_CHANNELS // 4, norm),
            *(Bottleneck(STAGE1_CHANNELS, STAGE1_CHANNELS // 4, norm) for _ in range(3)),
        )
        # Each transition adds one branch, from the coarsest map before it; the others pass through.
        # The first also reduces stage 1's channels to the finest branch's.
        self.transition1 = nn.ModuleList(
            [
                _ConvNorm(STAGE1_CHANNELS, channels[0], 3, 1, norm),
                nn.Sequential(_ConvNorm(STAGE1_CHANNELS, channels[1], 3, 2, norm)),
            ]
        )
        self.transition2 = _module_list(
            [None, None, nn.Sequential(_ConvNorm(channels[1], channels[2], 3, 2, norm))]
        )
        self.transition3 = _module_list(
            [None, None, None, nn.Sequential(_ConvNorm(channels[2], channels[3], 3, 2, norm))]
        )
        for stage, modules in enumerate(MODULES_PER_STAGE, start=2):
            layers = (HRModule(channels[:stage], norm) for _ in range(modules))
            setattr(self, f"stage{stage}", nn.ModuleList(layers))

        if fold_norm:
            norms = (m for m in self.modules() if isinstance(m, _BatchNorm | FrozenBatchNorm2d))
            self.folding = NormFolding(norms)
        for module in self._frozen_modules():
            for parameter in module.parameters():
                parameter.requires_grad = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        if "HRNETV2P" not in cfg.MODEL:
            raise KeyError("cfg.MODEL has no HRNETV2P: call hrnet_d2.add_hrnet_config(cfg) first")
        node = cfg.MODEL.HRNETV2P
        return {
            "width": node.WIDTH,
            "norm": node.NORM,
            "norm_eval": node.NORM_EVAL,
            "freeze_at": node.FREEZE_AT,
            "fold_norm": node.FOLD_NORM,
            "act_checkpoint": node.ACT_CHECKPOINT,
            "out_features": node.OUT_FEATURES,
            "in_channels": 3 if input_shape is None else input_shape.channels,
        }

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this; Detectron2's models pad."""
        return 32

    def output_shape(self) -> Levels:
        """Name to channels and stride of each level; a level that is missing is explained."""
        remedy = (
            f"Set MODEL.HRNETV2P.OUT_FEATURES (out_features) to more of {', '.join(LEVELS)}, or "
            "what reads them to levels that exist. Levels p2 ... are those of the neck: "
            "build_hrnetv2p_backbone (HRFPN)"
        )
        return Levels(super().output_shape(), remedy)

    def _frozen_modules(self) -> list[nn.Module]:
        stages: list[list[nn.Module]] = [
            [self.conv1, self.bn1, self.conv2, self.bn2],
            [self.layer1],
            [self.transition1, self.stage2],
            [self.transition2, self.stage3],
            [self.transition3, self.stage4],
        ]
        return [module for stage in stages[: self.freeze_at] for module in stage]

    def train(self, mode: bool = True) -> "HRNet":
        """As ``nn.Module.train``, but layers on running statistics stay in eval mode."""
        super().train(mode)
        keep_running_statistics(*([self] if self.norm_eval is True else self._frozen_modules()))
        if self.norm_eval == "auto":
            self.auto_norm_eval.apply(self)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As ``nn.Module.state_dict``; its metadata has the choice of ``norm_eval="auto"``."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        metadata = getattr(state, "_metadata", None)
        if metadata is not None and self.norm_eval == "auto":
            self.auto_norm_eval.save(metadata[prefix[:-1]])
        return state

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        self.auto_norm_eval.load(local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _run(self, stage: str, module: nn.Module, *xs: torch.Tensor) -> Any:
        if stage in self.act_checkpoint and self.training and torch.is_grad_enabled():
            vectors = NormFolding.vectors_of_pass()
            return checkpoint(
                module,
                *xs,
                use_reentrant=False,
                context_fn=lambda: (contextlib.nullcontext(), _recomputing(module, vectors)),
            )
        return module(*xs)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: normalized images (N, C, H, W), H and W multiples of 32.

        Returns:
            The levels of ``out_features``: name to (N, W * 2**i, H / stride, W / stride).

        Raises:
            ValueError: if H or W is not a multiple of 32.
        """
        check_input_size(x)
        if self.training and self.norm_eval == "auto" and self.auto_norm_eval.measuring is None:
            self.auto_norm_eval.choose(self)
        if self.training and self.trains_channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        # A context variable is nothing that torch.compile can trace, and it fuses by itself.
        if self.folding is None or torch.compiler.is_compiling():
            return self._forward(x)
        with self.folding.forward_pass():
            return self._forward(x)

    def _forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.relu(conv_norm(self.conv1, self.bn1, x))
        x = self.relu(conv_norm(self.conv2, self.bn2, x))
        for block in self.layer1:
            x = self._run("stage1", block, x)

        xs = [transition(x) for transition in self.transition1]
        for stage, transition in ((2, None), (3, self.transition2), (4, self.transition3)):
            if transition is not None:
                xs = [*xs, transition[-1](xs[-1])]
            for module in getattr(self, f"stage{stage}"):
                xs = self._run(f"stage{stage}", module, *xs)
        return {name: x for name, x in zip(LEVELS, xs, strict=True) if name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_hrnetv2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRNet:
    """The backbone alone, from ``cfg.MODEL.HRNETV2P``: levels "res2" ... "res5" for any neck."""
    return HRNet(cfg, input_shape)
