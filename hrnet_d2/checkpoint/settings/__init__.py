"""The settings that a checkpoint brings: input, classes, thresholds, arithmetic, options.

MMDetection keeps the config of a training in ``meta``, files of this package their config as YAML.
What neither says, the tensors' shapes decide.  Everything is in Detectron2's keys here; the config
that comes of it is made in ``hrnet_d2/checkpoint_config.py``.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..mmdet_config import parse_config
from ..recognition import Layout
from .account import Settings
from .mmdet_input import class_names_of_config, read_input, read_recipe
from .mmdet_model import modernized, read_model
from .tensors import Shapes, read_tensors

__all__ = ["Settings", "is_1x_meta", "read_settings"]

# Until this release (2020-12) all FCOS detectors of MMDetection were trained on this input.
_FCOS_INPUT_UNTIL = (2, 8)
_OLD_FCOS_INPUT = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
}
# FCOS takes the best pairs of location and class from this release of MMDetection on (2021-10).
_PAIRS_SINCE = (2, 18)


def read_settings(
    path: str,
    shapes: Shapes,
    layout: Layout,
    meta: Mapping[str, Any],
    config: str | None = None,
    class_names: list[str] | None = None,
    file_names: Iterable[str] = (),
) -> Settings:
    """Everything that a checkpoint says of its model.

    Args:
        path: of the file, for messages.
        shapes: our name to shape, of its tensors.
        layout: whose names they had.
        meta: MMDetection's; empty for other files.
        config: the full config as YAML, of files of this package.
        class_names: of the file.
        file_names: names of the tensors in the file.
    """
    settings = Settings(path, class_names=class_names)
    if config is not None:
        settings.source, settings.config = "hrnet_d2", config
        read_tensors(shapes, settings)
        return settings
    read_tensors(shapes, settings)
    text = config_text(meta)
    values: dict[str, Any] = {}
    if text is not None:
        parsed = parse_config(text)
        values = parsed.values
        settings.unread += parsed.unread
    if settings.family is None:
        return settings
    if values:
        read_model(values, settings)
        read_input(values, settings)
        read_recipe(values, settings)
    if settings.class_names is None:
        _take_names(class_names_of_config(values, settings), settings)
    if values or layout in (Layout.MMDET, Layout.MMDET_V1):
        _read_age(meta, values, layout, settings)
    if settings.family == "fcos" and not settings.stated_input:
        _read_fcos_age(meta, file_names, settings)
    return settings


def config_text(meta: Mapping[str, Any]) -> str | None:
    """The text of MMDetection's config, 3.x's or older."""
    for name in ("cfg", "config"):
        value = meta.get(name)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str) and value.strip():
            return value
    return None


def _take_names(names: Any, settings: Settings) -> None:
    if isinstance(names, str):
        names = [names]
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        settings.class_names = list(names)


def _is_1x_config(values: Mapping[str, Any], classes: int | None) -> bool | None:
    """Whether a config is one of MMDetection 1.x, which counts the background as a class.

    Args:
        values: of the config.
        classes: that the tensors have, without background.

    Returns:
        None where the config does not tell.
    """
    model = modernized(dict(values))
    parts = (model.get("roi_head"), model)
    for part in parts:
        head = part.get("bbox_head") if isinstance(part, dict) else None
        head = head[0] if isinstance(head, (list, tuple)) and head else head
        stated = head.get("num_classes") if isinstance(head, dict) else None
        if isinstance(stated, int) and classes is not None and stated in (classes, classes + 1):
            return stated == classes + 1
    data = values.get("data")
    if isinstance(data, dict) and data.keys() & {"imgs_per_gpu", "samples_per_gpu"}:
        return "imgs_per_gpu" in data
    return None


def is_1x_meta(meta: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool | None:
    """Whether a one-stage detector's meta is of MMDetection 1.x; None where it does not tell.

    The names of FCOS are the same in 1.x and in early 2.x, and the version as well.

    Args:
        meta: MMDetection's.
        tensors: by the file's names.
    """
    names = ("bbox_head.fcos_cls.bias", "bbox_head.conv_cls.bias")
    bias = next((tensors[name] for name in names if name in tensors), None)
    text = config_text(meta)
    if bias is None or text is None:
        return None
    return _is_1x_config(parse_config(text).values, len(bias))


def _read_age(
    meta: Mapping[str, Any], values: Mapping[str, Any], layout: Layout, settings: Settings
) -> None:
    """MODEL.ARITHMETIC, and FCOS's rule for the best candidates, by the file's version."""
    keys = settings.keys
    classes = keys.get("MODEL.FCOS.NUM_CLASSES", keys.get("MODEL.ROI_HEADS.NUM_CLASSES"))
    stated = _is_1x_config(values, classes)
    version = _version(meta.get("mmdet_version"))
    third = "cfg" in meta or "mmengine_version" in meta
    first = layout is Layout.MMDET_V1 if settings.family != "fcos" else bool(stated)
    if settings.family == "fcos" and stated is None and version is not None and not third:
        first = version < (1, 1)
    converted = layout is Layout.MMDET and stated is True and settings.family != "fcos"
    if converted:
        settings.notes.append(
            "the config is of MMDetection 1.x and the names are of 2.x: MMDetection's converter "
            "made this file. It shifts the biases of the RPN and drops the wrong biases of "
            "class-specific heads, so expect worse results than from the original file"
        )
    major = "3.x" if third else "1.x" if first or converted else "2.x"
    settings.source = f"MMDetection {major}" if meta or values else ""
    keys["MODEL.ARITHMETIC"] = "mmdet1" if first or converted else "mmdet2"
    if first or converted:  # a part of that arithmetic
        for head in ("BOX", "MASK"):
            keys.pop(f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO", None)
    if settings.family == "fcos":
        if third or (version is not None and version >= _PAIRS_SINCE):
            keys["MODEL.FCOS.TOPK_BY"] = "pairs"
        elif version is not None or values or first:
            keys["MODEL.FCOS.TOPK_BY"] = "locations"


def _read_fcos_age(meta: Mapping[str, Any], file_names: Iterable[str], settings: Settings) -> None:
    """The input of FCOS in files that do not state it, by their version or their names."""
    version = _version(meta.get("mmdet_version"))
    third = "cfg" in meta or "mmengine_version" in meta
    # Its classifier was renamed in the summer of 2020.
    old = any(name.startswith("bbox_head.fcos_cls.") for name in file_names)
    if not third and (old or (version is not None and version < _FCOS_INPUT_UNTIL)):
        settings.likely = dict(_OLD_FCOS_INPUT)


def _version(text: Any) -> tuple[int, int] | None:
    """Major and minor of "2.25.3" or "1.0.rc0+df1b904"."""
    match = re.match(r"(\d+)\.(\d+)", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else None
