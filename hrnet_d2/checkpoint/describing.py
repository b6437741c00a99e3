"""What files of this package say of the model in them: its config and its class names."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data.catalog import MetadataCatalog

from .formats import CLASS_NAMES, CONFIG

__all__ = ["describe"]


def describe(cfg: CfgNode) -> dict[str, Any]:
    """A config as plain YAML text and the names of its classes, to be saved with the weights.

    Args:
        cfg: the model's full config.

    Returns:
        "config", and "class_names" (a list) if they are known: those of ``DATASETS.CLASS_NAMES``,
        or else of the first data set.
    """
    names = list(cfg.DATASETS.CLASS_NAMES) if "CLASS_NAMES" in cfg.DATASETS else []
    registered = MetadataCatalog.list()
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if not names and name in registered:
            names = list(MetadataCatalog.get(name).get("thing_classes") or ())
    return {CONFIG: cfg.dump(), **({CLASS_NAMES: names} if names else {})}
