"""The losses of FCOS.

Every term is computed at every location and masked, instead of gathered at the positive ones. That
needs no synchronization with the device, and a batch without objects still gives every parameter a
gradient (of zero), as distributed training requires.

Shapes: N images, C classes, P locations of all levels together.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.utils import comm
from fvcore.nn import sigmoid_focal_loss_jit
from torchvision.ops import distance_box_iou_loss, generalized_box_iou_loss

from .targets import centerness_of

__all__ = ["BOX_LOSSES", "fcos_losses", "log_iou_loss"]

EPS = 1e-6


def log_iou_loss(boxes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log IoU, with the IoU clamped to at least 1e-6 (Yu et al., "UnitBox",
    https://arxiv.org/abs/1608.01471; MMDetection's ``IoULoss`` in its "log" mode).

    Args:
        boxes, targets: (..., 4) XYXY.

    Returns:
        (...).
    """
    low = torch.maximum(boxes[..., :2], targets[..., :2])
    high = torch.minimum(boxes[..., 2:], targets[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    target_area = (targets[..., 2:] - targets[..., :2]).prod(dim=-1)
    union = (area + target_area - overlap).clamp(min=EPS)
    return -(overlap / union).clamp(min=EPS).log()


BOX_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "iou": log_iou_loss,
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
}


def fcos_losses(
    logits: torch.Tensor,
    distances: torch.Tensor,
    ctrness: torch.Tensor,
    labels: torch.Tensor,
    target_distances: torch.Tensor,
    *,
    box_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = log_iou_loss,
    focal_loss_alpha: float = 0.25,
    focal_loss_gamma: float = 2.0,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Follows MMDetection's ``FCOSHead.loss_by_feat``: focal loss of the classes and cross entropy
    of the centerness, each over the number of positive locations; loss of the boxes weighted by
    the centerness of their locations, over its sum. Both divisors are means over the ranks.

    Args:
        logits: (N, C, P).
        distances: (N, P, 4) predicted, in pixels, not negative.
        ctrness: (N, P) logits.
        labels: (N, P) int64, in 0 ... C - 1, or -1 for background.
        target_distances: (N, P, 4), positive also at background.
        box_loss: from boxes and targets (..., 4) XYXY to losses (...).
        focal_loss_alpha, focal_loss_gamma: see ``fvcore.nn.sigmoid_focal_loss``.

    Returns:
        The losses, scalars; and the number of positive locations on this rank, a scalar.
    """
    positive = labels >= 0
    ctrness_targets = centerness_of(target_distances)
    box_weights = torch.where(positive, ctrness_targets, 0.0)
    num_positive = positive.sum()
    # One reduction for both divisors.
    divisors = torch.stack([num_positive.to(box_weights.dtype), box_weights.sum()])
    if comm.get_world_size() > 1:
        dist.all_reduce(divisors)
        divisors = divisors / comm.get_world_size()

    classes = torch.arange(logits.shape[1], device=logits.device)
    loss_cls = sigmoid_focal_loss_jit(
        logits,
        labels[:, None] == classes[:, None],
        alpha=focal_loss_alpha,
        gamma=focal_loss_gamma,
        reduction="sum",
    )
    # Background has no box: predictions there must not reach the loss, not even as zero times
    # infinity.
    distances = torch.where(positive[..., None], distances, 1.0)
    # Boxes relative to their location, which predictions and targets share.
    loss_loc = box_loss(_around_origin(distances), _around_origin(target_distances))
    loss_ctr = F.binary_cross_entropy_with_logits(
        torch.where(positive, ctrness.float(), 0.0), ctrness_targets, reduction="none"
    )
    losses = {
        "loss_fcos_cls": loss_cls / divisors[0].clamp(min=1.0),
        "loss_fcos_loc": (loss_loc * box_weights).sum() / divisors[1].clamp(min=EPS),
        "loss_fcos_ctr": (loss_ctr * positive).sum() / divisors[0].clamp(min=1.0),
    }
    return losses, num_positive


def _around_origin(distances: torch.Tensor) -> torch.Tensor:
    """Distances to the sides (..., 4) to the box XYXY around the origin."""
    return torch.cat([-distances[..., :2], distances[..., 2:]], dim=-1)
