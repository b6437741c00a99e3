"""Checkpoints by address, downloaded and held to their digest."""

from detectron2.utils.file_io import PathManager

from .errors import CheckpointError
from .reading import check_digest

__all__ = ["fetch"]

# The host of MMDetection 2.0's first files, and where they are now.
_MOVED = ("https://open-mmlab.s3.ap-northeast-2.amazonaws.com/", "https://download.openmmlab.com/")


def fetch(address: str) -> str:
    """A local file for an address.

    Args:
        address: a path, or an address that iopath's PathManager knows. A SHA-256 prefix in its
            name is checked.

    Returns:
        The local path; of the cached file for an address of the network.

    Raises:
        CheckpointError: where there is no such file, it cannot be downloaded, or it is not the
            one that its name says.
    """
    places = [address]
    if address.startswith(_MOVED[0]):
        places.append(_MOVED[1] + address.removeprefix(_MOVED[0]))
    errors = []
    for place in places:
        try:
            local = PathManager.get_local_path(place)
        except Exception as error:  # each kind of address has errors of its own
            errors.append(f"{place}: {error}")
            continue
        if PathManager.isfile(local):
            check_digest(local, address)
            return local
        errors.append(f"{place}: there is no such file")
    by_hand = ""
    if "://" in address:
        by_hand = ". Without a network, fetch it by hand and set MODEL.WEIGHTS to the file"
    raise CheckpointError(f"No checkpoint at {'; '.join(errors)}{by_hand}")
