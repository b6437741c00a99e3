"""The model of a server: a checkpoint, a name of the model zoo, or an exported folder."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances

import hrnet_d2
from hrnet_d2 import model_zoo
from hrnet_d2.config_file import ConfigError, merge_options, with_weights
from hrnet_d2.data import num_classes
from hrnet_d2.data.categories import category_id, category_ids
from hrnet_d2.export.runtime import SETTINGS, UntrustedError

__all__ = ["Category", "Model", "load_model"]


@dataclass(frozen=True)
class Category:
    """A class as COCO's files have it."""

    id: int
    name: str


@dataclass(frozen=True)
class Model:
    """What a server needs of a detector."""

    name: str
    """For the page and for ``/health``: what was loaded."""
    predict: Callable[[Sequence[np.ndarray]], list[dict[str, Any]]]
    """From (H, W, 3) uint8 BGR images to outputs with "instances", as ``Predictor`` has them."""
    categories: tuple[Category, ...]
    """By the number that the network gives the class."""
    masks: bool
    device: str
    backend: str = "opencv"
    """Of decoding, as ``INPUT.BACKEND``."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """The detections of images, on the CPU."""
        return [output["instances"].to("cpu") for output in self.predict(images)]


def load_model(
    source: str,
    config_file: str = "",
    opts: Sequence[str] = (),
    *,
    batch_size: int = 8,
    trusted: bool = False,
) -> Model:
    """Load a detector.

    Args:
        source: a checkpoint (path or URL), a name of the model zoo for its published checkpoint,
            or a folder that ``hrnet-d2 export`` wrote.
        config_file: for a checkpoint that brings no config, or another one than it brings.
        opts: KEY VALUE pairs that override the config.
        batch_size: the most images that run through the network at once.
        trusted: an exported folder is one's own. The formats "torchscript" and "pt2" need it:
            their files may hold code, which loading runs.

    Raises:
        ConfigError: if a folder is missing, is no export or a damaged one, may hold code and is
            not trusted, needs a runtime that is not installed, or if options are given for it.
        CheckpointError, ModelZooError, OSError: if it cannot be loaded.
    """
    if os.path.isdir(source):
        return _exported(source, config_file, opts, batch_size, trusted)
    if source.endswith(("/", os.sep)):
        raise ConfigError(f"There is no folder {source}")
    cfg = _config(source, config_file, opts)
    predictor = hrnet_d2.Predictor(cfg, batch_size=batch_size)
    return _of_predictor(predictor, _name(source))


def _name(source: str) -> str:
    """The file and its folder: every run has a "model_final.pth"."""
    if not os.path.isfile(source):
        return source
    return "/".join(os.path.abspath(source).split(os.sep)[-2:])


def _config(source: str, config_file: str, opts: Sequence[str]) -> CfgNode:
    options = with_weights(opts, source)
    if config_file:
        return model_zoo.load_config(config_file, options)
    cfg = model_zoo.config_of(source)
    weights = cfg.MODEL.WEIGHTS
    merge_options(cfg, list(opts))
    cfg.MODEL.WEIGHTS = weights
    return cfg


def _of_predictor(predictor: hrnet_d2.Predictor, name: str) -> Model:
    cfg, metadata = predictor.cfg, predictor.metadata
    names = metadata.get("thing_classes") or ()
    _, count = num_classes(cfg) or ("", len(names))
    return Model(
        name=name,
        predict=lambda images: predictor(list(images)),
        categories=_categories(count, names, category_ids(metadata)),
        masks=bool(cfg.MODEL.MASK_ON),
        device=str(cfg.MODEL.DEVICE),
        backend=cfg.INPUT.BACKEND,
    )


def _exported(
    folder: str, config_file: str, opts: Sequence[str], batch_size: int, trusted: bool
) -> Model:
    from hrnet_d2 import export

    if not os.path.isfile(os.path.join(folder, SETTINGS)):
        raise ConfigError(
            f"{folder} is a folder without {SETTINGS}, so it is no exported detector: give a "
            "checkpoint, a name of the model zoo, or a folder that `hrnet-d2 export` wrote"
        )
    if config_file or opts:
        raise ConfigError(
            f"{folder} is an exported detector, whose settings are fixed: leave --config-file and "
            "--opts out, or export it again with them"
        )
    try:
        predictor = export.load(folder, batch=batch_size, trusted=trusted)
    except UntrustedError as error:
        raise ConfigError(f"{error} (`hrnet-d2 serve --trusted` passes it)") from None
    except (ImportError, ValueError) as error:
        raise ConfigError(str(error)) from None
    settings = predictor.detector.settings
    names = predictor.detector.classes
    ids = settings.get("category_ids", [category_id(k, []) for k in range(len(names))])
    if not isinstance(ids, list) or list(map(type, ids)) != [int] * len(names):
        raise ConfigError(
            f"{os.path.join(folder, SETTINGS)}: 'category_ids' must be a whole number for each of "
            f"the {len(names)} 'classes'"
        )

    def predict(images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        outputs: Any = predictor(list(images))
        return outputs

    return Model(
        name=os.path.basename(os.path.abspath(folder)),
        predict=predict,
        categories=_categories(len(names), names, ids),
        masks="masks" in settings["outputs"],
        device="cpu",
        backend=settings["input"]["resize"],
    )


def _categories(count: int, names: Sequence[str], ids: Sequence[int]) -> tuple[Category, ...]:
    return tuple(
        Category(category_id(k, ids), names[k] if k < len(names) else f"class {k}")
        for k in range(count)
    )
