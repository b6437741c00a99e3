"""A detector as CUDA graphs: the dense part; its proposals or detections; and the box heads.

What a graph computes has sizes that follow from its inputs' alone, so every image has as many
proposals and detections as there can be, and a number says how many count.  The host waits for
these numbers only.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import nn

from hrnet_d2.modeling.meta_arch.fcos.fcos import FCOS
from hrnet_d2.modeling.meta_arch.fcos.inference import Candidates
from hrnet_d2.modeling.roi_heads.cascade_rcnn import MaxIoUCascadeROIHeads
from hrnet_d2.modeling.roi_heads.detections import detectron2_rule
from hrnet_d2.modeling.roi_heads.htc import SEMANTIC, HTCROIHeads
from hrnet_d2.modeling.roi_heads.roi_heads import MaxIoUROIHeads

from .cuda_graphs import CUDAGraphs
from .dense import Store, StoredHead, find_dense_head
from .optimized_backbone import OptimizedBackbone
from .parallel_nms import parallel_nms, top_detections
from .roi_pooler import StaticROIPooler

__all__ = [
    "GraphedBoxes",
    "GraphedFCOS",
    "GraphedProposals",
    "forget_graphs",
    "pool_without_waiting",
    "use_cuda_graphs",
]

# Whose boxes follow from the maps, the proposals and the images' sizes alone.
_HEADS = (MaxIoUROIHeads, MaxIoUCascadeROIHeads, HTCROIHeads)

Sizes = Sequence[tuple[int, int]]


def pool_without_waiting(model: nn.Module) -> None:
    """Replace the poolers of a model's heads, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ROIPooler) and not isinstance(module, StaticROIPooler):
                setattr(module, name, StaticROIPooler(child))


def use_cuda_graphs(model: nn.Module, backbone: OptimizedBackbone) -> None:
    """Run what can be captured of an optimized model as CUDA graphs, in place.

    Args:
        model: in eval mode; its poolers do not wait.
        backbone: of the model.
    """
    owner, name, levels = find_dense_head(model)
    store = Store()
    if owner is None:
        backbone.capture(_nothing, (), store)
        return
    head = getattr(owner, name)
    if isinstance(owner, RPN) and _is_plain(owner):
        backbone.capture(_RPNCandidates(owner), levels, store)
        _override(owner, "forward", GraphedProposals(owner, store))
    else:
        dense = _FCOSCandidates(model, head) if isinstance(model, FCOS) else head
        backbone.capture(dense, levels, store)
        setattr(owner, name, StoredHead(head, store).eval())
    detector: Any = model
    if type(model) is FCOS and detector.max_detections_per_image >= 0:
        _override(model, "forward_inference", GraphedFCOS(detector))
    heads: Any = getattr(model, "roi_heads", None)
    graphed = type(heads) in _HEADS and heads.detection_rule is detectron2_rule
    if graphed and isinstance(owner, RPN):
        _override(heads, "_forward_box", GraphedBoxes(heads, owner.post_nms_topk[False]))


def _override(module: nn.Module, name: str, call: Any) -> None:
    """An attribute of this copy in place of its class's method: everything else about it stays."""
    object.__setattr__(module, name, call)


def forget_graphs(model: nn.Module) -> None:
    """Drop what was captured, since the tensors of the model are others now."""
    for module in model.modules():
        for value in vars(module).values():
            run = getattr(value, "run", value)
            if isinstance(run, CUDAGraphs):
                run.clear()


def _nothing(maps: list[torch.Tensor]) -> tuple:
    return ()


def _is_plain(module: Any) -> bool:
    """Whether a proposal generator selects at test as Detectron2's RPN does."""
    names = ("forward", "predict_proposals", "_decode_proposals")
    same = all(getattr(type(module), name, None) is getattr(RPN, name) for name in names)
    return same and module.anchor_generator.box_dim == 4


class _Limits:
    """Height and width of the images as a tensor, which stays on the GPU for the next ones."""

    def __init__(self) -> None:
        self.known: tuple[Any, torch.Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"known": None}

    def __call__(self, sizes: Sizes, like: torch.Tensor) -> torch.Tensor:
        """(N, 1, 4): width, height, width, height."""
        key = ([tuple(size) for size in sizes], like.device)
        known = self.known  # another thread may replace it
        if known is None or known[0] != key:
            rows = [[w, h, w, h] for h, w in sizes]
            limits = torch.tensor(rows, dtype=torch.float32, device=like.device)[:, None]
            known = self.known = key, limits
        return known[1]


class _FCOSCandidates:
    def __init__(self, model: FCOS, head: nn.Module):
        self.model, self.head = model, head

    def __call__(self, maps: list[torch.Tensor]) -> Any:
        return self.model.find_candidates(maps, self.head(maps))


class GraphedFCOS:
    """``forward_inference`` of FCOS, where its candidates are stored."""

    def __init__(self, model: FCOS):
        self.model = model
        self.limits = _Limits()
        self.run = CUDAGraphs(self._select)

    def __call__(self, images: Any, features: Any, predictions: Any) -> list[Instances]:
        model: Any = self.model
        if not isinstance(predictions, Candidates) or not self.run.applies(predictions.boxes):
            return type(model).forward_inference(model, images, features, predictions)
        sizes = images.image_sizes
        *found, numbers = self.run(
            *predictions,
            self.limits(sizes, predictions.boxes),
            threshold=model.test_score_thresh,
            iou=model.test_nms_thresh,
            most=model.max_detections_per_image,
        )
        numbers = numbers.tolist()
        if min(numbers) < 0:
            return type(model).forward_inference(model, images, features, predictions)
        return _detections(found, numbers, sizes)

    @staticmethod
    def _select(
        boxes: torch.Tensor,
        scores: torch.Tensor,
        probability: torch.Tensor,
        classes: torch.Tensor,
        limits: torch.Tensor,
        *,
        threshold: float,
        iou: float,
        most: int,
    ) -> tuple[torch.Tensor, ...]:
        boxes = boxes.clamp(min=0).minimum(limits)
        valid = (probability > threshold) & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        return top_detections(boxes, scores, classes, valid, iou=iou, most=most)


def _detections(
    found: Sequence[torch.Tensor], numbers: Sequence[int], sizes: Sizes
) -> list[Instances]:
    """The first of each image's boxes, scores and classes, as many as count."""
    boxes, scores, classes = found
    results = []
    for i, (number, size) in enumerate(zip(numbers, sizes, strict=True)):
        instances = Instances(size)
        instances.pred_boxes = Boxes(boxes[i, :number])
        instances.scores = scores[i, :number]
        instances.pred_classes = classes[i, :number]
        results.append(instances)
    return results


class _RPNCandidates:
    """The best anchors of each level, decoded: what Detectron2's RPN does before it clips."""

    def __init__(self, rpn: RPN):
        self.rpn = rpn
        # Computing them copies from the host, which a graph cannot.
        self._anchors: dict[Any, list[Boxes]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_anchors": {}}

    def anchors(self, maps: list[torch.Tensor]) -> list[Boxes]:
        """Of each level."""
        rpn: Any = self.rpn
        key = (*(x.shape[-2:] for x in maps), maps[0].device)
        anchors = self._anchors.get(key)
        if anchors is None:
            anchors = rpn.anchor_generator(maps)
            self._anchors = {key: anchors}  # at once, since another thread may replace it
        return anchors

    def __call__(self, maps: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """
        Returns:
            Of each level boxes (N, K, 4) in pixels of the network's input, and logits (N, K) by
            which they are sorted.
        """
        rpn: Any = self.rpn
        levels = []
        predictions = zip(*rpn.rpn_head(maps), self.anchors(maps), strict=True)
        for objectness, regression, anchors in predictions:
            logits = objectness.permute(0, 2, 3, 1).flatten(1)
            best, index = logits.topk(min(logits.shape[1], rpn.pre_nms_topk[False]), dim=1)
            n, _, h, w = regression.shape
            deltas = regression.view(n, -1, 4, h, w).permute(0, 3, 4, 1, 2).flatten(1, 3)
            deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))
            levels.append((deltas, anchors.tensor[index], best))
        deltas, start, best = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        boxes = rpn.box2box_transform.apply_deltas(deltas.flatten(0, 1), start.flatten(0, 1))
        sizes = [level[2].shape[1] for level in levels]
        by_level = boxes.view_as(start).split(sizes, dim=1), best.split(sizes, dim=1)
        return list(zip(*by_level, strict=True))


class GraphedProposals:
    """``forward`` of Detectron2's RPN at test, where its candidates are stored."""

    def __init__(self, rpn: RPN, store: Store):
        self.rpn, self.store = rpn, store
        self.limits = _Limits()
        self.run = CUDAGraphs(self._select)

    def __call__(
        self, images: Any, features: dict[str, torch.Tensor], gt_instances: Any = None
    ) -> tuple[list[Instances], dict]:
        rpn: Any = self.rpn
        levels = self.store.take([features[name] for name in rpn.in_features])
        sizes = images.image_sizes
        numbers = [-1]
        if levels is not None:
            boxes, logits, counts = self.run(
                self.limits(sizes, levels[0][0]),
                *(tensor for level in levels for tensor in level),
                iou=rpn.nms_thresh,
                smallest=rpn.min_box_size,
                most=rpn.post_nms_topk[False],
            )
            numbers = counts.tolist()
        if min(numbers) < 0:
            return type(rpn).forward(rpn, images, features, gt_instances)
        proposals = []
        for i, number in enumerate(numbers):
            found = Instances(sizes[i])
            found.proposal_boxes = Boxes(boxes[i, :number])
            found.objectness_logits = logits[i, :number]
            proposals.append(found)
        return proposals, {}

    @staticmethod
    def _select(
        limits: torch.Tensor, *levels: torch.Tensor, iou: float, smallest: float, most: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Proposals (N, K, 4), their logits (N, K), and how many count (N,); -1 if not known."""
        k = max(level.shape[1] for level in levels)
        n = len(limits)
        # Images and levels are one axis: none suppresses in another.
        boxes = torch.stack([F.pad(x, (0, 0, 0, k - x.shape[1])) for x in levels[::2]], dim=1)
        logits = torch.stack(
            [F.pad(x.float(), (0, k - x.shape[1]), value=-torch.inf) for x in levels[1::2]], dim=1
        )
        finite = boxes.isfinite().all(dim=3) & logits.isfinite()
        boxes = boxes.clamp(min=0).minimum(limits[:, None])
        valid = finite & (boxes[..., 2:] - boxes[..., :2] > smallest).all(dim=3)
        stays, settled = [], []
        for boxes_i, valid_i in zip(boxes, valid, strict=True):  # less memory than at once
            found = parallel_nms(boxes_i, valid_i, iou)
            stays.append(found[0])
            settled.append(found[1])
        scores = logits.masked_fill(~torch.stack(stays), -torch.inf).flatten(1)
        best, index = scores.topk(min(most, scores.shape[1]), dim=1)
        numbers = (best > -torch.inf).sum(dim=1).where(torch.stack(settled), -1)
        flat = boxes.view(n, -1, 4)
        return flat.gather(1, index[..., None].expand(-1, -1, 4)), best, numbers


class GraphedBoxes:
    """``_forward_box`` of this package's ROI heads at test.

    Every image gets the same number of regions, the most that there can be: those that are missing
    are empty, and what is computed of them is dropped.
    """

    def __init__(self, heads: Any, capacity: int):
        """
        Args:
            heads: whose class has ``predict_boxes``.
            capacity: the most proposals of an image.
        """
        self.heads, self.capacity = heads, capacity
        self.names = {*heads.box_in_features, SEMANTIC}
        self.cascade = isinstance(heads, MaxIoUCascadeROIHeads)
        self.limits = _Limits()
        self.run = CUDAGraphs(self._detect)

    def __call__(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], targets: Any = None
    ) -> list[Instances]:
        boxes = [p.proposal_boxes.tensor for p in proposals]
        sizes = [p.image_size for p in proposals]
        predictor = self.heads.box_predictor
        predictor = predictor[-1] if self.cascade else predictor
        most = predictor.test_topk_per_image
        numbers = [-1]
        if self.run.applies(boxes[0]) and max(map(len, boxes)) <= self.capacity and most >= 0:
            names = tuple(name for name in features if name in self.names)
            padded = torch.stack([F.pad(b, (0, 0, 0, self.capacity - len(b))) for b in boxes])
            *found, counts = self.run(
                padded,
                self.limits(sizes, padded),
                *(features[name] for name in names),
                names=names,
                # A cascade clips to them between its stages.
                sizes=tuple(map(tuple, sizes)) if self.cascade else ((0, 0),) * len(sizes),
                threshold=predictor.test_score_thresh,
                iou=predictor.test_nms_thresh,
                most=most,
            )
            numbers = counts.tolist()
        if min(numbers) < 0:
            return type(self.heads)._forward_box(self.heads, features, proposals)
        return _detections(found, numbers, sizes)

    def _detect(
        self,
        regions: torch.Tensor,
        limits: torch.Tensor,
        *maps: torch.Tensor,
        names: tuple[str, ...],
        sizes: Sizes,
        threshold: float,
        iou: float,
        most: int,
    ) -> tuple[torch.Tensor, ...]:
        proposals = [
            Instances(size, proposal_boxes=Boxes(boxes))
            for size, boxes in zip(sizes, regions, strict=True)
        ]
        features = dict(zip(names, maps, strict=True))
        made = type(self.heads).predict_boxes(self.heads, features, proposals)
        boxes, scores = torch.stack(list(made[0])), torch.stack(list(made[1]))
        real = boxes.isfinite().all(dim=2) & scores.isfinite().all(dim=2)
        real &= regions[..., 2] > regions[..., 0]
        n, _, classes = scores[..., :-1].shape
        boxes = boxes.view(n, -1, 4).clamp(min=0).minimum(limits)
        scores = scores[..., :-1].flatten(1)
        valid = (scores > threshold) & real.repeat_interleave(classes, dim=1)
        groups = torch.arange(classes, device=scores.device).repeat(scores.shape[1] // classes)
        return top_detections(boxes, scores, groups.expand(n, -1), valid, iou=iou, most=most)
