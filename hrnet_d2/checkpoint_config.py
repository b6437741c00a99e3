"""From the settings that a checkpoint brings to a Detectron2 config, and their meeting with one.

A file's input, classes, thresholds and arithmetic are a part of its model.  They come from
MMDetection's ``meta``, from the config in files of this package, from ``model_zoo.json`` for
published files, and from the tensors' shapes; :mod:`hrnet_d2.checkpoint.settings` reads them.
"""

import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data.catalog import MetadataCatalog
from detectron2.utils.logger import log_first_n
from fvcore.common.config import BASE_KEY

from .checkpoint import CheckpointError, load_file
from .checkpoint.download import fetch
from .checkpoint.pickle_limits import LimitError, check_nesting
from .checkpoint.settings import Settings
from .config import add_hrnet_config
from .config_file import lookup, merge_file
from .published import get_config_file, list_models, published_file
from .text import YAML_ERRORS, printable

__all__ = ["apply_checkpoint_settings", "checkpoint_settings", "config_from_checkpoint", "to_yaml"]

_INPUT = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
_RULES = ("MODEL.FCOS.TOPK_BY", "MODEL.ARITHMETIC")
# What changes the results of a model at test, apart from those above.
_AT_TEST = (
    *("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE"),
    *("MODEL.ANCHOR_GENERATOR.", "MODEL.HRNETV2P.NECK.", "MODEL.HTC.", "MODEL.ROI_HEADS.SOFT_NMS."),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.RPN.NMS_THRESH"),
    *("MODEL.RPN.BBOX_REG_WEIGHTS", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST"),
    *("MODEL.ROI_BOX_HEAD.POOLER_", "MODEL.ROI_MASK_HEAD.POOLER_"),
    *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"),
    *("MODEL.ROI_BOX_CASCADE_HEAD.SCORE_FUSION", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE"),
    *("MODEL.FCOS.SCORE_THRESH_TEST", "MODEL.FCOS.NMS_THRESH_TEST"),
    *("MODEL.FCOS.TOPK_CANDIDATES_TEST", "MODEL.FCOS.NORM_ON_BBOX"),
    "MODEL.FCOS.CENTERNESS_ON_REG",
)
_CLASSES = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.FCOS.NUM_CLASSES")
_BASES = {
    "faster_rcnn": "Base-RCNN-HRNetV2p.yaml",
    "mask_rcnn": "Base-Mask-RCNN-HRNetV2p.yaml",
    "cascade_rcnn": "Base-Cascade-RCNN-HRNetV2p.yaml",
    "cascade_mask_rcnn": "Base-Cascade-Mask-RCNN-HRNetV2p.yaml",
    "htc": "Base-HTC-HRNetV2p.yaml",
    "fcos": "Base-FCOS-HRNetV2p.yaml",
}
_ABSENT = object()
# Of the run that made a file, not of the model in it. A file decides nothing about which files of
# this machine are read.
_OF_THE_RUN = ("OUTPUT_DIR", "MODEL.DEVICE", "DATASETS.OWN", "DATASETS.ALLOW_OUTSIDE_FILES")

# LibYAML's parser where it is there: ten times as fast.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

logger = logging.getLogger(__name__)


def config_from_checkpoint(path: str, keep: bool = False) -> CfgNode:
    """The full config of a detector's checkpoint, from the file alone.

    Args:
        path: a file or URL, as for ``MODEL.WEIGHTS``: of MMDetection 1.x, 2.x or 3.x, or of this
            package.
        keep: the file is going to be loaded; see :func:`hrnet_d2.checkpoint.load_file`.

    Returns:
        The config, with ``MODEL.WEIGHTS`` set to ``path``.  What the file does not say is as in
        the family's config; what was assumed so is logged.

    Raises:
        UnsafeCheckpointError: if the file refers to code.
        CheckpointError: if it cannot be downloaded or read, if it holds no detector, or if the
            file states a setting that this package does not support; the message names it.
    """
    settings = checkpoint_settings(path, keep)
    cfg = _config(settings)
    cfg.MODEL.WEIGHTS = path
    for note in settings.notes:
        _say(f"{path}: {printable(note)}", logging.WARNING)
    if settings.assumed:
        logger.info("%s does not say, so it is assumed: %s", path, "; ".join(settings.assumed))
    if settings.unread:
        unread = printable("; ".join(settings.unread[:10]))
        logger.info("%s: not understood in its config: %s", path, unread)
    return cfg


def checkpoint_settings(path: str, keep: bool = False) -> Settings:
    """What a checkpoint says of its model.

    Args:
        path: a file or URL, as for ``MODEL.WEIGHTS``.
        keep: the file is going to be loaded; see :func:`hrnet_d2.checkpoint.load_file`.

    Raises:
        UnsafeCheckpointError: if the file refers to code.
        CheckpointError: if it cannot be downloaded or read.
    """
    address = _address(path)
    settings = load_file(fetch(address, verify=False), keep).settings
    settings.path = path
    if settings.config is None and settings.family is not None:
        _read_zoo(settings, address)
    return settings


def _address(path: str) -> str:
    """A path or URL without its query; a "?" in the name of a file is none."""
    return path if os.path.isfile(path) else path.partition("?")[0]


def _read_zoo(settings: Settings, address: str) -> None:
    """What ``model_zoo.json`` says of a published file; else the defaults, noted as assumed."""
    published = published_file(address)
    if published is not None:
        for key, value in published["keys"].items():
            if key not in _INPUT or not settings.stated_input:
                settings.keys[key] = value
        settings.stated_input = True
        settings.likely = {}
        return
    if not settings.stated_input:
        settings.assumed.append(
            f"input of FCOS until 2020-12 ({_described(settings.likely)})"
            if settings.likely
            else f"input as in {_BASES[settings.family or '']}"
        )
    if settings.family == "fcos" and "MODEL.FCOS.TOPK_BY" not in settings.keys:
        settings.assumed.append("MODEL.FCOS.TOPK_BY pairs")


def _config(settings: Settings) -> CfgNode:
    if settings.family is None and settings.config is None:
        what = "; ".join(settings.unsupported) or "a backbone, or a model of unknown names"
        raise CheckpointError(
            f"{settings.path} holds no detector of this package ({what}): name a config to use it"
        )
    if settings.unsupported:
        raise CheckpointError(
            f"{settings.path} needs settings that this package does not support: "
            f"{'; '.join(settings.unsupported)}"
        )
    cfg = get_cfg()
    add_hrnet_config(cfg)
    stored = _stored(settings)
    # What convert writes without a config says no more than the source did.
    complete = "VERSION" in stored
    if not complete:
        if settings.family is None:
            raise CheckpointError(f"{settings.path}: its config is not complete")
        merge_file(cfg, _base_file(settings))
        _set(cfg, {**settings.likely, **settings.keys}, settings.path)
    _merge_stored(cfg, stored, settings)
    if complete:
        _check_number_of_names(cfg, settings)
    else:
        _set_classes(cfg, settings)
    return cfg


def _base_file(settings: Settings) -> str:
    """The leaf of a published file, which has its recipe; else the family's base."""
    published = published_file(_address(settings.path))
    if published is not None:
        return get_config_file(published["config"])
    leaf = Path(get_config_file(list_models(f"{settings.family}/*")[0]))
    return str(leaf.parents[1] / _BASES[settings.family or ""])


def _set(cfg: CfgNode, keys: dict[str, Any], path: str) -> None:
    for key, value in keys.items():
        try:
            cfg.merge_from_list([key, _as(value, lookup(cfg, key))])
        except (KeyError, ValueError, AssertionError) as error:
            raise CheckpointError(
                f"{path}: its setting {key} {value!r} fits no key: {error}"
            ) from None


def _as(value: Any, present: Any) -> Any:
    """A value as the config takes it: numbers of the present one's type, text quoted."""
    if isinstance(value, str):
        return repr(value)  # a config would take it for a literal
    if isinstance(present, float) and type(value) is int:
        return float(value)
    if type(present) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _set_classes(cfg: CfgNode, settings: Settings) -> None:
    """Names for every class; data sets of other classes are not the model's."""
    number = _number_of_classes(settings.keys)
    names = settings.class_names
    if number is None:
        return
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        cfg.MODEL.FCOS.NUM_CLASSES = number
    else:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = number
    if names is not None and len(names) != number:
        settings.notes.append(f"the file names {len(names)} classes for a head of {number}")
        names = [*names, *(f"class {i}" for i in range(len(names), number))][:number]
    coco = _coco_names()
    if (names is None and number != len(coco)) or (names is not None and _other(names, coco)):
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
        cfg.DATASETS.CLASS_NAMES = names or []
    if names is None:
        settings.assumed.append("class names of COCO" if number == len(coco) else "no class names")


def _check_number_of_names(cfg: CfgNode, settings: Settings) -> None:
    """Class names of another number than the model's are left out, since any may be wrong."""
    fcos = cfg.MODEL.META_ARCHITECTURE == "FCOS"
    number = cfg.MODEL.FCOS.NUM_CLASSES if fcos else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = cfg.DATASETS.CLASS_NAMES
    if names and len(names) != number:
        settings.notes.append(
            f"the file names {len(names)} classes for a head of {number}; the names are not used"
        )
        cfg.DATASETS.CLASS_NAMES = []


def _other(names: list[str], others: list[str]) -> bool:
    """Whether these are other classes; 1.x writes "traffic_light"."""
    plain = [[name.replace("_", " ") for name in part] for part in (names, others)]
    return plain[0] != plain[1]


def _coco_names() -> list[str]:
    return list(MetadataCatalog.get("coco_2017_val").thing_classes)


def _number_of_classes(keys: dict[str, Any]) -> int | None:
    return next((keys[key] for key in _CLASSES if key in keys), None)


def _stored(settings: Settings) -> dict[str, Any]:
    """The config that a file of this package carries, by dotted key; empty for other files."""
    if settings.config is None:
        return {}
    try:
        stored = yaml.load(settings.config, Loader=_YAML)
        if not isinstance(stored, dict):
            raise ValueError(
                f"it is of type {type(stored).__name__}, not a mapping of keys to values"
            )
        check_nesting(stored)  # by aliases a few lines can stand for millions of values
        return {key: _printable(value) for key, value in _flat(stored)}
    except YAML_ERRORS as error:
        raise CheckpointError(f"{settings.path}: its config cannot be read: {error}") from None
    except LimitError as error:
        raise CheckpointError(
            f"{settings.path}: its config is refused: it repeats or nests itself too often"
        ) from error


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    return [_printable(item) for item in value] if isinstance(value, list) else value


def _merge_stored(cfg: CfgNode, stored: dict[str, Any], settings: Settings) -> None:
    """Keys that are unknown here, such as another project's, are left out."""
    for key, value in stored.items():
        if key in _OF_THE_RUN or key == "VERSION" or lookup(cfg, key, _ABSENT) is _ABSENT:
            continue
        if key == "DATASETS.CLASS_NAMES" and not _are_names(value):
            settings.notes.append(
                f"its {key} is not a list of texts and is not used: {value!r:.60}"
            )
            continue
        _set(cfg, {key: value}, settings.path)
    names = settings.class_names
    if names and not cfg.DATASETS.CLASS_NAMES and _other(names, _coco_names()):
        cfg.DATASETS.CLASS_NAMES = list(names)
    settings.notes += _unknown_keys(cfg, stored)


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _unknown_keys(cfg: CfgNode, stored: dict[str, Any]) -> list[str]:
    """A note of the keys of a file's config that have no meaning here."""
    unknown = [key for key in stored if key != "VERSION" and lookup(cfg, key, _ABSENT) is _ABSENT]
    if not unknown:
        return []
    listed = ", ".join(unknown[:10]) + (f", ... ({len(unknown)} in all)" if unknown[10:] else "")
    if BASE_KEY in unknown:
        listed += (
            f" ({BASE_KEY} works in config files only: nothing was read from the file it names)"
        )
    if len(unknown) == len(stored):
        return [f"its config has no key of this package and is not used; it has: {listed}"]
    return [f"keys of its config that are unknown here are left out: {listed}"]


def _flat(tree: dict[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield printable(f"{prefix}{key}"), value


def apply_checkpoint_settings(cfg: CfgNode, training: bool = False, weights: str = "") -> CfgNode:
    """The config with the input of the detector that it loads.

    If the file is a whole detector that states its input, the file's pixel mean,
    deviation and channel order hold, its rule ``MODEL.FCOS.TOPK_BY``, and at test its
    ``MODEL.ARITHMETIC``; one line is logged if that changes anything. Every other setting of
    inference in which file and config differ is listed in one warning, and the config's holds.
    ``INPUT.FROM_CHECKPOINT False`` turns all of this off.

    Args:
        cfg: a full config; it stays as it is.
        training: whether the weights are fine-tuned, which is done in the arithmetic of 2.x.
        weights: the file that is loaded, if it is not ``MODEL.WEIGHTS``: a run's own checkpoint.

    Returns:
        ``cfg`` itself if nothing changes, else a changed copy, frozen if ``cfg`` is.

    Raises:
        UnsafeCheckpointError: if the file refers to code.
        CheckpointError: if it cannot be downloaded or read.
    """
    path = weights or cfg.MODEL.WEIGHTS
    if not path or not cfg.INPUT.FROM_CHECKPOINT:
        return cfg
    settings = checkpoint_settings(path, keep=True)
    if not settings.whole_detector:
        return cfg
    stated = _stated(settings)
    held = {key: stated[key] for key in (*_INPUT, *_RULES) if key in stated}
    if training and held.get("MODEL.ARITHMETIC", "mmdet2") != "mmdet2":
        _say(f"{path} was computed with MMDetection 1.x conventions; training continues with 2.x's")
        del held["MODEL.ARITHMETIC"]
    changes = {key: value for key, value in held.items() if not _same(lookup(cfg, key), value)}
    _warn_of_differences(cfg, stated, settings, training)
    if not changes:
        return cfg
    listed = ", ".join(
        f"{key} {value} (config: {lookup(cfg, key)})" for key, value in changes.items()
    )
    _say(
        f"{path} brings its own input, which holds: {listed}. "
        "To ignore it set INPUT.FROM_CHECKPOINT False",
        logging.WARNING,
    )
    changed = cfg.clone()
    changed.defrost()
    _set(changed, changes, path)
    if cfg.is_frozen():
        changed.freeze()
    return changed


def _stated(settings: Settings) -> dict[str, Any]:
    """What the file itself says, by key."""
    return settings.keys if settings.config is None else _stored(settings)


def _warn_of_differences(
    cfg: CfgNode, stated: dict[str, Any], settings: Settings, training: bool
) -> None:
    differing = [
        f"{key} {lookup(cfg, key)} (file: {value})"
        for key, value in stated.items()
        if key.startswith(_AT_TEST) and not _same(lookup(cfg, key), value)
    ]
    names, wanted = _names(cfg), settings.class_names
    if not training and names is not None and wanted is not None and _other(names, wanted):
        differing.append(f"the classes {_listed(names)} (file: {_listed(wanted)})")
    if any(not _same(lookup(cfg, key), value) for key, value in settings.likely.items()):
        _say(
            f"{settings.path} does not state its input. Until 2020-12 MMDetection trained FCOS on "
            f"{_described(settings.likely)}: set these, unless it was trained on what the config "
            f"has ({_described({key: lookup(cfg, key) for key in settings.likely})})",
            logging.WARNING,
        )
    differing += [f"not supported here: {text}" for text in settings.unsupported]
    if differing:
        differ = printable("; ".join(differing))
        _say(
            f"The config's settings hold where {settings.path} has others: {differ}",
            logging.WARNING,
        )
    unknown = [] if settings.config is None else _unknown_keys(cfg, stated)
    for note in (*settings.notes, *unknown):
        _say(f"{settings.path}: {printable(note)}", logging.WARNING)


def _described(keys: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in keys.items())


def _say(message: str, level: int = logging.INFO) -> None:
    """Log once: a command's config passes here more than once."""
    log_first_n(level, message, name=__name__, key="message")


def _names(cfg: CfgNode) -> list[str] | None:
    """The class names that the config's results will have."""
    if cfg.DATASETS.CLASS_NAMES:
        return list(cfg.DATASETS.CLASS_NAMES)
    for name in cfg.DATASETS.TEST:
        if name in MetadataCatalog.list():
            names = MetadataCatalog.get(name).get("thing_classes")
            if names is not None:
                return list(names)
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, ... ({len(names)})"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)


def to_yaml(cfg: CfgNode, settings: Settings | None = None) -> str:
    """A config as YAML text, with the recipe of the checkpoint that it is from as comments.

    Args:
        cfg: a full config.
        settings: of :func:`checkpoint_settings`.
    """
    lines = []
    if settings is not None and settings.recipe:
        lines = [f"# Trained by {settings.source or 'another project'}:"]
        lines += [f"#   {' '.join(sentence.split())}" for sentence in settings.recipe]
    return "\n".join([*lines, cfg.dump()])
