"""What a run starts from: the settings of its weights, and doubts about its recipe."""

import logging

from detectron2.config import CfgNode

from hrnet_d2.checkpoint import CheckpointError, UnsafeCheckpointError
from hrnet_d2.checkpoint_config import apply_checkpoint_settings

__all__ = ["starting_settings", "warn_of_recipe"]

logger = logging.getLogger(__name__)


def starting_settings(cfg: CfgNode) -> CfgNode:
    """The config with the input of the file to fine-tune.

    A run that resumes does not need that file any more; one that starts fails when it loads it.
    """
    try:
        return apply_checkpoint_settings(cfg, training=True)
    except UnsafeCheckpointError:
        raise
    except CheckpointError as error:
        logger.warning("The settings of MODEL.WEIGHTS are not known: %s", error)
        return cfg


def warn_of_recipe(cfg: CfgNode) -> None:
    """Log a warning if the config departs from its recipe in a way that usually spoils training."""
    solver = cfg.SOLVER
    batch, rate = solver.REFERENCE_BATCH_SIZE, solver.REFERENCE_LR
    if batch and batch != solver.IMS_PER_BATCH and rate == solver.BASE_LR:
        logger.warning(
            "SOLVER.IMS_PER_BATCH is %d but SOLVER.BASE_LR is still the recipe's %g for %d images: "
            "set SOLVER.BASE_LR %g (and lengthen the schedule), or let SOLVER.REFERENCE_WORLD_SIZE "
            "scale both",
            solver.IMS_PER_BATCH,
            rate,
            batch,
            rate * solver.IMS_PER_BATCH / batch,
        )
    if (
        cfg.MODEL.HRNETV2P.NORM_EVAL is True
        and not cfg.MODEL.WEIGHTS
        and "hrnet" in cfg.MODEL.BACKBONE.NAME
    ):
        logger.warning(
            "MODEL.WEIGHTS is empty and MODEL.HRNETV2P.NORM_EVAL is True: normalization layers "
            "would keep statistics that were never measured. To train from scratch set "
            "MODEL.HRNETV2P.NORM_EVAL to None (auto) or False"
        )
