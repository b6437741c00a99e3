"""Out of memory: an error that says what was being done and which keys help."""

import contextlib
import re
from collections.abc import Iterator

import cv2
import torch

__all__ = ["MemoryExhaustedError", "explain_out_of_memory"]


class MemoryExhaustedError(RuntimeError):
    """Memory of the CPU or GPU ran out: what was being done, and which keys help."""


@contextlib.contextmanager
def explain_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Replace the out-of-memory errors of torch (CPU or GPU), NumPy and OpenCV by one that helps.

    Args:
        what: was being done, with its size.
        remedy: the keys to lower or set.

    Raises:
        MemoryExhaustedError: instead of such an error; others pass as they are.
    """
    try:
        yield
    except (RuntimeError, MemoryError, cv2.error) as error:
        if not _is_out_of_memory(error):
            raise
        where = (
            "of the GPU" if isinstance(error, torch.cuda.OutOfMemoryError) else "of this machine"
        )
        raise MemoryExhaustedError(
            f"The memory {where} ran out while {what}{_amount(str(error))}. Lower {remedy}"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error)
    return any(
        words in text
        for words in (
            "DefaultCPUAllocator",
            "can't allocate memory",
            "not enough memory",
            "std::bad_alloc",
            "could not create a memory object",
            "Insufficient memory",
        )
    )


def _amount(text: str) -> str:
    found = re.search(r"allocate ([\d.]+ ?(?:bytes|[KMGT]iB))", text)
    return f" (one array of {found[1]} did not fit)" if found else ""
