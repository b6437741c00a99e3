"""What decides the detections of a model, in a form that two runs can compare."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

__all__ = ["category_id", "category_ids", "settings_of"]


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """The checkpoint and a digest of the config, without the keys that only divide the work."""
    cfg = cfg.clone()
    cfg.defrost()
    weights = cfg.MODEL.WEIGHTS
    for key in ("OUTPUT_DIR", "SEED", "VERSION"):
        cfg.pop(key, None)
    cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = ""
    digest = hashlib.blake2b(cfg.dump().encode("utf-8"), digest_size=16).hexdigest()
    size = os.path.getsize(weights) if os.path.isfile(weights) else None
    return {
        "weights": weights,
        "bytes of weights": size,
        "config": digest,
        "masks": bool(cfg.MODEL.MASK_ON),
    }


def category_ids(metadata: Any) -> list[int]:
    """COCO category ids of a dataset's classes, by number; empty if it states none."""
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {contiguous: category for category, contiguous in to_contiguous.items()}
    return [ids[i] for i in range(len(ids))] if sorted(ids) == list(range(len(ids))) else []


def category_id(number: int, ids: Sequence[int]) -> int:
    """Of a class by its number; without ids counted from 1, as COCO's files do."""
    return ids[number] if number < len(ids) else number + 1
