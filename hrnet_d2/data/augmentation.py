"""The augmentations of a config: crop, resize or scale jitter, flip, colors."""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from .cropping import CropAroundObject, FixedSizeCrop, RandomCrop, ScaleJitter
from .transforms import ResizeKeepRatio, ResizeShortestEdge

__all__ = ["build_augmentation"]

PADDING = 128.0  # value of the pixels around images that are smaller than the jitter's size


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of ``cfg.INPUT`` for one image: crop, resize (or scale jitter), flip and
    colors, in this order; at test the resize alone.

    Mosaic and copy-paste, which take several images, are in :mod:`.mixing`.

    Raises:
        ValueError: if INPUT.BACKEND or INPUT.RANDOM_FLIP has an unknown value.
    """
    node = cfg.INPUT
    if is_train:
        sizes, max_size, style = (
            node.MIN_SIZE_TRAIN,
            node.MAX_SIZE_TRAIN,
            node.MIN_SIZE_TRAIN_SAMPLING,
        )
    else:
        sizes, max_size, style = node.MIN_SIZE_TEST, node.MAX_SIZE_TEST, "choice"
    resize = {"opencv": ResizeKeepRatio, "detectron2": ResizeShortestEdge}.get(node.BACKEND)
    if resize is None:
        raise ValueError(f'INPUT.BACKEND must be "opencv" or "detectron2", got {node.BACKEND!r}')
    augmentations: list[T.Augmentation] = [resize(sizes, max_size, style)]
    if not is_train:
        return augmentations
    if node.SCALE_JITTER.ENABLED:
        augmentations = _scale_jitter(cfg)
    if node.CROP.ENABLED:
        crop = CropAroundObject if node.CROP.AROUND_OBJECTS else RandomCrop
        augmentations.insert(0, crop(node.CROP.TYPE, node.CROP.SIZE))
    flip = node.RANDOM_FLIP
    if flip not in ("none", "horizontal", "vertical"):
        raise ValueError(
            f'INPUT.RANDOM_FLIP must be "none", "horizontal" or "vertical", got {flip!r}'
        )
    if flip != "none":
        augmentations.append(
            T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")
        )
    return augmentations + _color_jitter(cfg)


def _scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Large-scale jitter (Ghiasi et al., "Simple Copy-Paste", 2021)."""
    node = cfg.INPUT.SCALE_JITTER
    scale = ScaleJitter if cfg.INPUT.BACKEND == "opencv" else T.ResizeScale
    height, width = node.SIZE
    return [
        scale(node.MIN_SCALE, node.MAX_SCALE, height, width),
        FixedSizeCrop((height, width), pad_value=PADDING, seg_pad_value=_padding_label(cfg)),
    ]


def _padding_label(cfg: CfgNode) -> int:
    """What label maps have around the image. Bitmaps of objects have 0 there, see the mapper."""
    return int(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE) if cfg.INPUT.BACKEND == "opencv" else 0


def _color_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    node = cfg.INPUT.COLOR_JITTER
    saturation = _SaturationBGR if cfg.INPUT.FORMAT == "BGR" else T.RandomSaturation
    kinds = (
        (node.BRIGHTNESS, T.RandomBrightness),
        (node.CONTRAST, T.RandomContrast),
        (node.SATURATION, saturation),
    )
    return [kind(max(0.0, 1 - by), 1 + by) for by, kind in kinds if by > 0]


class _SaturationBGR(T.RandomSaturation):
    """Detectron2's takes the image for RGB."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return super().get_transform(image[..., ::-1])
