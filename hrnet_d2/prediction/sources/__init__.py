"""Inputs: images, folders, lists, archives, videos, cameras and URLs of these."""

from .expand import expand
from .item import Item, Unit
from .names import Names

__all__ = ["Item", "Names", "Unit", "expand"]
