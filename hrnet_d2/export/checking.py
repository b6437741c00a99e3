"""An exported detector against the model it was made from, on the same images."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn

from .runtime import Detector

__all__ = [
    "LOWEST_THRESHOLD",
    "TOLERANCES",
    "Comparison",
    "Tolerance",
    "check_images",
    "compare",
    "match",
]

# A comparison of fewer detections than these says little.
ENOUGH = 20
LOWEST_THRESHOLD = 1e-5
# Detections that a user would look at: above this score, or at least so many of the best.
CONFIDENT_SCORE = 0.3
CONFIDENT_COUNT = 20


@dataclass(frozen=True)
class Tolerance:
    """Of detections that count as the same: they have the same class, and

    Attributes:
        iou: their boxes overlap at least so much.
        score: their scores differ by at most so much.
        mask_iou: their masks overlap at least so much.
        share: of all detections, how many must have a counterpart.
        confident: the same of the model's detections with a score above 0.3, or of the 20 best if
            there are fewer of these.
    """

    iou: float
    score: float
    mask_iou: float
    share: float
    confident: float


# float32: as the reference cases. The other types change results by their precision, which moves
# low scores past each other: their bounds tell a broken graph, not a small loss of accuracy. On
# untrained weights, the worst case, PyTorch's own bfloat16 keeps 80 to 92 % of the detections.
TOLERANCES = {
    "float32": Tolerance(0.99, 2e-3, 0.98, 0.98, 0.98),
    "float16": Tolerance(0.8, 2e-2, 0.8, 0.9, 0.85),
    "bfloat16": Tolerance(0.5, 0.1, 0.0, 0.7, 0.8),
    "int8": Tolerance(0.5, 0.1, 0.0, 0.7, 0.8),
}


@dataclass(frozen=True)
class Comparison:
    """Of one image.

    Attributes:
        height, width: of the image, in pixels.
        batch: how many images ran together.
        expected, made: detections of the model and of the export.
        same: how many of these are the same within the tolerance.
        confident, confident_same: of the model's detections with the best scores, see
            :class:`Tolerance`.
        box: largest difference of a coordinate among these, in pixels.
        score: largest difference of a score among these.
        mask: least IoU of masks among these; None without masks.
        ok: whether enough are the same.
    """

    height: int
    width: int
    batch: int
    expected: int
    made: int
    same: int
    confident: int
    confident_same: int
    box: float
    score: float
    mask: float | None
    ok: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_images(image: np.ndarray) -> list[np.ndarray]:
    """The image at two sizes of other proportions, neither of which the graph was recorded with."""
    height, width = image.shape[:2]
    tall = image[:, : max(width * 2 // 3, 1)]
    return [image, np.ascontiguousarray(tall)] if height >= 3 and width >= 3 else [image]


def compare(
    detector: Detector,
    predict: Callable[[np.ndarray], Any],
    model: nn.Module,
    images: Sequence[np.ndarray],
    tolerance: Tolerance,
) -> list[Comparison]:
    """Run both on every image, and the export on the first and its mirror image as a batch.

    If the model finds hardly anything, the score threshold of both is lowered for the comparison,
    and restored.

    Args:
        detector: of the export.
        predict: runs the model.
        model: whose threshold ``predict`` obeys.
        images: (H, W, 3) uint8 BGR; none: nothing is compared.
        tolerance: what counts as the same.

    Returns:
        A comparison for each image, and for both of the batch.
    """
    if not images:
        return []
    pair = [images[0], np.ascontiguousarray(images[0][:, ::-1])]
    configured = detector.score_thresh
    threshold, batch = configured, detector.batch
    try:
        expected = [predict(image)["instances"] for image in images]
        while sum(map(len, expected)) < ENOUGH * len(images) and threshold > LOWEST_THRESHOLD:
            threshold = max(threshold / 8, LOWEST_THRESHOLD)
            _set_threshold(model, threshold)
            expected = [predict(image)["instances"] for image in images]
        expected += [expected[0], predict(pair[1])["instances"]]
        detector.score_thresh = threshold
        made = []
        for detector.batch, several in ((1, list(images)), (len(pair), pair)):
            made += [
                (output["instances"], tolerance, detector.batch) for output in detector(several)
            ]
    finally:
        detector.score_thresh, detector.batch = configured, batch
        _set_threshold(model, configured)
    return [match(a, *b) for a, b in zip(expected, made, strict=True)]


def _set_threshold(model: Any, value: float) -> None:
    if hasattr(model, "test_score_thresh"):  # FCOS
        model.test_score_thresh = value
        return
    predictor = model.roi_heads.box_predictor
    predictor = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
    predictor.test_score_thresh = value


def match(expected: Instances, made: Any, tolerance: Tolerance, batch: int = 1) -> Comparison:
    """Pair the detections one to one, best scores first.

    Args:
        expected: of the model.
        made: of the export, :class:`~hrnet_d2.export.runtime.Detections`.
        tolerance: what counts as the same.
        batch: how many images ran together.
    """
    boxes = torch.from_numpy(made.pred_boxes)
    iou = pairwise_iou(expected.pred_boxes, Boxes(boxes))
    score = (expected.scores[:, None] - torch.from_numpy(made.scores)[None]).abs()
    same = expected.pred_classes[:, None] == torch.from_numpy(made.pred_classes)[None]
    quality = iou * same * (iou >= tolerance.iou) * (score <= tolerance.score)
    pairs, used = [], set()
    for i, row in enumerate(quality):
        for j in row.argsort(descending=True).tolist():
            if row[j] <= 0:
                break
            if j not in used:
                used.add(j)
                pairs.append((i, j))
                break
    masks = None
    if made.pred_masks is not None and pairs:
        ious = [_mask_iou(expected.pred_masks[i].numpy(), made.pred_masks[j]) for i, j in pairs]
        masks = min(ious)
        pairs = [p for p, value in zip(pairs, ious, strict=True) if value >= tolerance.mask_iou]
    rows, columns = ([pair[k] for pair in pairs] for k in (0, 1))
    most = max(len(expected), len(made))
    # The scores are in descending order.
    confident = max(int((expected.scores > CONFIDENT_SCORE).sum()), CONFIDENT_COUNT)
    confident = min(confident, len(expected))
    confident_same = sum(row < confident for row in rows)
    return Comparison(
        height=expected.image_size[0],
        width=expected.image_size[1],
        batch=batch,
        expected=len(expected),
        made=len(made),
        same=len(pairs),
        confident=confident,
        confident_same=confident_same,
        box=_largest(expected.pred_boxes.tensor[rows] - boxes[columns]),
        score=_largest(score[rows, columns]),
        mask=masks,
        ok=len(pairs) >= tolerance.share * most
        and confident_same >= tolerance.confident * confident,
    )


def _mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    union = float((a | b).sum())
    return float((a & b).sum()) / union if union else 1.0


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0
