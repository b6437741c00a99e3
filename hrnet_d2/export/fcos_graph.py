"""FCOS as one graph.

N = number of images, C = number of classes, P = number of a level's locations, k = number of
candidates.
"""

import torch
import torch.nn.functional as F

from hrnet_d2.modeling.meta_arch.fcos.targets import level_locations

from .graph import DetectorGraph, bounded, top_padded

__all__ = ["FCOSGraph"]


class FCOSGraph(DetectorGraph):
    """FCOS."""

    def forward(
        self,
        images: torch.Tensor,
        size: torch.Tensor,
        score_thresh: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """As ``TwoStageGraph.forward``, without masks; follows ``detect`` of FCOS's inference."""
        model = self.model
        size = size.float()
        features = self._features(images, size)
        maps = [features[name] for name in model.head_in_features]
        topk = model.test_topk_candidates
        rule = _TOPK_RULES[model.test_topk_by]
        levels = []
        for x, stride, logits, distances, ctrness in zip(
            maps, model.strides, *model.head(maps), strict=True
        ):
            points = level_locations([x.shape[-2:]], [stride], x.device)
            values, location, classes = rule(
                top_padded(logits.float().flatten(2), topk, -torch.inf),
                top_padded(ctrness.float().flatten(1), topk, -torch.inf),
                topk,
            )
            sides = _of_locations(top_padded(distances.flatten(2), topk, 0.0), location)
            xy = F.pad(points, (0, 0, 0, topk))[location]
            levels.append(
                (
                    values.sigmoid(),
                    classes,
                    top_padded(ctrness.float().flatten(1), topk, 0.0).gather(1, location),
                    self.arithmetic.decode_points(xy, sides.transpose(1, 2)),
                )
            )
        probability, classes, centerness, boxes = (
            torch.cat(x, dim=1) for x in zip(*levels, strict=True)
        )
        scores = probability * centerness.sigmoid()
        valid = (probability > score_thresh) & centerness.isfinite() & boxes.isfinite().all(dim=2)
        boxes = self.arithmetic.clip(boxes, size[:, None])
        valid = valid & (boxes[:, :, 2:] > boxes[:, :, :2]).all(dim=2)
        row = bounded(valid.flatten().nonzero())[:, 0]
        return self._suppress(
            boxes.flatten(0, 1)[row],
            scores.flatten()[row],
            classes.flatten()[row],
            row // scores.shape[1],
            model.num_classes,
            size,
            scale,
            model.test_nms_thresh,
            model.max_detections_per_image,
        )


def _finite(logits: torch.Tensor) -> torch.Tensor:
    """Infinite and NaN logits as minus infinity, which no threshold lets through."""
    return torch.where(logits.isfinite(), logits, -torch.inf)


def _top_pairs(
    logits: torch.Tensor, ctrness: torch.Tensor, topk: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The most probable pairs of a location and a class.

    Args:
        logits: (N, C, P), with P at least ``topk``.
        ctrness: (N, P), which does not matter here.
        topk: k.

    Returns:
        Logits, locations and classes of the pairs, (N, k) each.
    """
    x = _finite(logits)
    locations = x.amax(dim=1).topk(topk).indices
    values, pairs = _of_locations(x, locations).flatten(1).topk(topk)
    return values, locations.gather(1, pairs % topk), pairs // topk


def _top_locations(
    logits: torch.Tensor, ctrness: torch.Tensor, topk: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`_top_pairs`: all classes of the locations with the largest centerness x best
    probability, so that k is C times ``topk``."""
    x = _finite(logits)
    centerness = ctrness.sigmoid()
    centerness = torch.where(centerness.isfinite(), centerness, 0.0)
    locations = (x.amax(dim=1).sigmoid() * centerness).topk(topk).indices
    num_classes = logits.shape[1]
    classes = torch.arange(num_classes, device=x.device).repeat_interleave(topk)
    return (
        _of_locations(x, locations).flatten(1),
        locations.repeat(1, num_classes),
        classes.expand(locations.shape[0], -1),
    )


def _of_locations(x: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
    """(N, C, k): the values of (N, C, P) at the locations (N, k)."""
    return x.gather(2, locations[:, None].expand(-1, x.shape[1], -1))


_TOPK_RULES = {"pairs": _top_pairs, "locations": _top_locations}
