"""The SHA-256 prefix in a checkpoint's name."""

import functools
import hashlib
import json
import logging
import re
from pathlib import Path, PurePosixPath

from .errors import CheckpointError

__all__ = ["check_digest"]

logger = logging.getLogger(__name__)

# "-56651a6d.pth": the start of the content's SHA-256, a convention of publishers of weights.
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pth\.tar|pt|pkl|bin|safetensors)")
_DATE = re.compile(r"(?:19|20)\d{6}")
_MODEL_ZOO = Path(__file__).parents[1] / "model_zoo.json"


def check_digest(path: str, name: str | None = None) -> None:
    """Check a file against the SHA-256 prefix in its name, if there is one.

    A file that the model zoo publishes must match. The names of other files are not always right
    (OpenMMLab has published some that never matched): they only get a warning.

    Args:
        path: path of the file.
        name: the name or URL that it was published under; default: its own.

    Raises:
        CheckpointError: if they differ and the model zoo publishes a file of this name.
    """
    base = PurePosixPath(name or path).name.partition("?")[0]
    found = _DIGEST.search(base)
    if found is None or _DATE.fullmatch(found[1]):
        return
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**22):
            sha.update(block)
    digest = sha.hexdigest()
    if digest.startswith(found[1]):
        return
    differ = (
        f"its SHA-256 begins with {digest[: len(found[1])]}, and its name says {found[1]} "
        f"(the whole SHA-256: {digest})"
    )
    if base in _published():
        raise CheckpointError(
            f"{path} is not the file that the model zoo publishes under this name: {differ}. The "
            "download is damaged or the file was changed: delete it and download it again, or "
            "rename it if you changed it yourself"
        )
    logger.warning(
        f"{path} does not match the digest in its name: {differ}. If it was published under this "
        "name, it is damaged or was changed; if the name is a coincidence, rename it"
    )


@functools.cache
def _published() -> frozenset[str]:
    """The names of all files that the model zoo has URLs of."""
    found = re.findall(r"https?://[^\"\s]+", json.dumps(json.loads(_MODEL_ZOO.read_text("utf-8"))))
    return frozenset(PurePosixPath(url).name for url in found)
