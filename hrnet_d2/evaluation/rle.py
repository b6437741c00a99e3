"""Binary masks to COCO's run-length encoding, in time proportional to objects, not images."""

import numpy as np
import pycocotools.mask as mask_util
import torch

__all__ = ["encode_crop", "encode_masks"]


def encode_masks(masks: torch.Tensor) -> list[dict]:
    """COCO's compressed run-length encoding of full-image masks.

    The bytes are those of ``pycocotools.mask.encode``; only the rows and columns where a mask
    has pixels are examined one by one.

    Args:
        masks: (N, H, W) bool or uint8, on the CPU.

    Returns:
        N dicts with "size" [H, W] and "counts" (str), ready for JSON.
    """
    n, height, width = masks.shape
    if n == 0:
        return []
    arrays = masks.numpy().view(np.uint8) if masks.dtype == torch.bool else masks.numpy()
    return [encode_crop(array, 0, 0, height, width) for array in arrays]


def encode_crop(mask: np.ndarray, y: int, x: int, height: int, width: int) -> dict:
    """COCO's encoding of a mask of which only a part of the image is given; the rest is empty.

    Args:
        mask: (h, w) uint8 or bool.
        y, x: where its first pixel lies in the image.
        height, width: of the image, into which the part fits.

    Returns:
        A dict with "size" [height, width] and "counts" (str).

    Raises:
        ValueError: if the part leads out of the image.
    """
    if not (0 <= y <= height - mask.shape[0] and 0 <= x <= width - mask.shape[1]):
        raise ValueError(
            f"A mask of {mask.shape[0]} x {mask.shape[1]} pixels at {y}, {x} leads out of an image "
            f"of {height} x {width}"
        )
    rows = np.flatnonzero(mask.any(axis=1))
    counts = [height * width]
    if len(rows):
        top, bottom = rows[0], rows[-1] + 1
        columns = np.flatnonzero(mask[top:bottom].any(axis=0))
        left, right = columns[0], columns[-1] + 1
        # Runs go down the columns. A row of zeros under the crop ends each column's last run. If
        # the crop is as high as the image, a run may continue in the next column: then its end
        # and the next start are at one position, and the pair is removed.
        crop = np.zeros((right - left, bottom - top + 2), np.uint8)
        crop[:, 1:-1] = mask[top:bottom, left:right].T != 0
        column, row = np.nonzero(crop[:, 1:] != crop[:, :-1])
        ends = (column + left + x) * height + row + top + y
        if bottom - top == height:
            same = np.flatnonzero(ends[1:] == ends[:-1])
            ends = np.delete(ends, np.concatenate([same, same + 1]))
        counts = np.diff(ends, prepend=0, append=height * width).tolist()
        if counts[-1] == 0:  # the mask ends with the image's last pixel
            counts.pop()
    rle = mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": rle["size"], "counts": rle["counts"].decode()}
