"""A part of the inputs, for those who run several processes or machines by themselves."""

import hashlib
import re
from dataclasses import dataclass

from hrnet_d2.config_file import ConfigError

__all__ = ["Shard", "parse_shard"]


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, from 1."""

    index: int = 1
    count: int = 1

    @property
    def suffix(self) -> str:
        """Of the names of tables, so that all parts fit into one folder: "-1-of-4"."""
        return f"-{self.index}-of-{self.count}" if self.count > 1 else ""

    def has(self, name: str) -> bool:
        """Whether an input belongs to this part.

        It depends on the name alone, by a hash that is the same everywhere: not on the other
        inputs, on their order, or on where the folder of inputs lies.
        """
        if self.count == 1:
            return True
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """Of ``2/8`` the second of eight parts.

    Raises:
        ConfigError: if it is no such part.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {text} is no part: give 1/4, 2/4, 3/4 and 4/4 to four runs")
    return Shard(int(match[1]), int(match[2]))
