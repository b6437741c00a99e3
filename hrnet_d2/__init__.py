"""HRNet detection for Detectron2: importing this registers every component."""

from . import modeling as _modeling  # noqa: F401  only registration
from .config import add_hrnet_config

__version__ = "0.1.0"
__all__ = ["add_hrnet_config"]
