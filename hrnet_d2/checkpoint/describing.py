"""What files of this package say of the model in them: its config and its class names."""

import logging
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data.catalog import MetadataCatalog

from .formats import CLASS_NAMES, CONFIG
from .settings import Settings

__all__ = ["describe", "stated_config"]

logger = logging.getLogger(__name__)


def describe(cfg: CfgNode) -> dict[str, Any]:
    """A config as plain YAML text and the names of its classes, to be saved with the weights.

    Args:
        cfg: the model's full config.

    Returns:
        "config", without the paths in DATASETS.OWN, and "class_names" (a list) if they are known:
        those of ``DATASETS.CLASS_NAMES``, or else of the first data set.
    """
    names = list(cfg.DATASETS.CLASS_NAMES) if "CLASS_NAMES" in cfg.DATASETS else []
    registered = MetadataCatalog.list()
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if not names and name in registered:
            names = list(MetadataCatalog.get(name).get("thing_classes") or ())
    if "OWN" in cfg.DATASETS:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASETS.OWN = []  # folders of this machine, which are nobody's who gets the file
    return {CONFIG: cfg.dump(), **({CLASS_NAMES: names} if names else {})}


def stated_config(settings: Settings) -> str | None:
    """What a checkpoint itself says, as the YAML text of a partial config.

    Args:
        settings: of the checkpoint.

    Returns:
        None if it says nothing, or something that this package does not support.
    """
    if settings.config is not None or settings.family is None:
        return settings.config
    if settings.unsupported:
        logger.warning(
            "%s: its settings are not written, since some are not supported: %s",
            settings.path,
            "; ".join(settings.unsupported),
        )
        return None
    tree: dict[str, Any] = {}
    for key, value in settings.keys.items():
        *parents, name = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    comments = [f"#   {' '.join(sentence.split())}" for sentence in settings.recipe]
    if comments:
        comments.insert(0, f"# Trained by {settings.source}:")
    return "\n".join([*comments, yaml.safe_dump(tree)])
