"""What can go wrong in an export, beyond errors of configs and files."""

from hrnet_d2.config_file import ConfigError

__all__ = ["ExportError"]


class ExportError(ConfigError):
    """A model cannot be exported as asked: what is in the way, and what to do."""
