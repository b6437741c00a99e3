"""Detectron2's ``DefaultPredictor`` with this package's pixels and checkpoints."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.checkpoint_config import apply_checkpoint_settings
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import build_augmentation
from hrnet_d2.devices import available_device
from hrnet_d2.modeling import build_model

from .predictor import metadata_of

__all__ = ["ExactPredictor"]


class ExactPredictor(DefaultPredictor):
    """``DefaultPredictor`` that equals ``hrnet_d2.Predictor(cfg, optimize=False)`` to the bit.

    For code that is written for Detectron2's class: one BGR image in, one output dict out, and
    the same attributes.  Detectron2's resizes with Pillow whatever ``INPUT.BACKEND`` says, loads no
    MMDetection file, and does not apply the settings that a checkpoint brings.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: a full config, whose ``MODEL.WEIGHTS`` may be of any supported format.

        Raises:
            ConfigError: if the config names no weights.
        """
        # DefaultPredictor's own constructor would load the weights with Detectron2's checkpointer.
        if not cfg.MODEL.WEIGHTS:
            raise ConfigError("MODEL.WEIGHTS is empty: set it to a checkpoint's path or URL")
        self.cfg = apply_checkpoint_settings(cfg).clone()
        self.cfg.defrost()
        self.cfg.MODEL.DEVICE = available_device(self.cfg.MODEL.DEVICE)
        self.cfg.freeze()
        if self.cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ConfigError(
                f'INPUT.FORMAT is {self.cfg.INPUT.FORMAT!r}, it must be "BGR" or "RGB" here'
            )
        self.model = build_model(self.cfg)
        self.model.eval()
        Checkpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.metadata = metadata_of(self.cfg)
        (self.aug,) = build_augmentation(self.cfg, is_train=False)
        self.input_format = self.cfg.INPUT.FORMAT
