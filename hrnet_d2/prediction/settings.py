"""What decides the detections of a model, in a form that two runs can compare."""

import hashlib
import os
from typing import Any

from detectron2.config import CfgNode

__all__ = ["settings_of"]


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
