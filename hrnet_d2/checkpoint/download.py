"""Download checkpoints and check them against the digest in their name."""

from detectron2.utils.file_io import PathManager

from .errors import CheckpointError
from .reading import check_digest

__all__ = ["fetch"]

# The host that MMDetection 2.0's first files were published on, and the one that has them now.
_MOVED = ("https://open-mmlab.s3.ap-northeast-2.amazonaws.com/", "https://download.openmmlab.com/")


def fetch(address: str) -> str:
    """Return a local file for a path or URL.

    Args:
        address: a path, or a URL that iopath's PathManager supports. A SHA-256 prefix in its name
            is checked.

    Returns:
        The local path; for a URL, that of the cached file.

    Raises:
        CheckpointError: if there is no such file, it cannot be downloaded, or its digest does not
            match its name.
    """
    places = [address]
    if address.startswith(_MOVED[0]):
        places.append(_MOVED[1] + address.removeprefix(_MOVED[0]))
    errors = []
    for place in places:
        try:
            local = PathManager.get_local_path(place)
        except Exception as error:  # each kind of URL raises its own errors
            errors.append(f"{place}: {error}")
            continue
        if PathManager.isfile(local):
            check_digest(local, address)
            return local
        errors.append(f"{place}: there is no such file")
    by_hand = ""
    if "://" in address:
        by_hand = ". Without a network, download it by hand and set MODEL.WEIGHTS to the file"
    raise CheckpointError(f"No checkpoint at {'; '.join(errors)}{by_hand}")
