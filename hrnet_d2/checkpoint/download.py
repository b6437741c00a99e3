"""Download checkpoints and check them against the digest in their name."""

import os

from detectron2.utils.file_io import PathManager

from .digest import check_digest
from .errors import CheckpointError

__all__ = ["fetch"]

# The host that MMDetection 2.0's first files were published on, and those that have them now.
_HOSTS = (
    "https://open-mmlab.s3.ap-northeast-2.amazonaws.com/mmdetection/v2.0/",
    "https://download.openmmlab.com/mmdetection/v2.0/",
    "https://mmassets.onedl.ai/mmdetection/v2.0/",
)


def fetch(address: str, verify: bool = True) -> str:
    """Return a local file for a path or URL.

    Args:
        address: a path, or a URL that iopath's PathManager supports. A SHA-256 prefix in its name
            is checked.
        verify: whether to check it, which reads the whole file.

    Returns:
        The local path; for a URL, that of the cached file.

    Raises:
        CheckpointError: if there is no such file, it cannot be downloaded, or its digest does not
            match its name.
    """
    places = [address]
    for i, host in enumerate(_HOSTS):
        if address.startswith(host):
            places += [other + address.removeprefix(host) for other in _HOSTS[i + 1 :]]
    errors = []
    for place in places:
        try:
            local = PathManager.get_local_path(place)
        except Exception as error:  # each kind of URL raises its own errors
            errors.append(f"{place}: {error}")
            continue
        if PathManager.isfile(local):
            if verify:
                check_digest(local, address)
            return local
        errors.append(f"{place}: {_no_file(local)}")
    by_hand = ""
    if "://" in address:
        by_hand = ". Without a network, download it by hand and set MODEL.WEIGHTS to the file"
    raise CheckpointError(f"No checkpoint at {'; '.join(errors)}{by_hand}")


def _no_file(path: str) -> str:
    """Why a path is not a file that can be read."""
    if all(os.path.isfile(os.path.join(path, name)) for name in ("detector.py", "settings.json")):
        return (
            "it is a folder of `hrnet-d2 export`, which its detector.py, `hrnet-d2 serve` and "
            "hrnet_d2.export.load run; give the checkpoint that it was made from"
        )
    if os.path.isdir(path):
        return "it is a folder; give the checkpoint in it"
    if os.path.exists(path):
        return "it is not a regular file"
    return "there is no such file"
