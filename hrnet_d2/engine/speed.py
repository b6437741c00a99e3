"""Measure models: alternated timing, time for each part, inputs and weights that need no file."""

import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
import torchvision
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

__all__ = [
    "alternate",
    "environment",
    "peak_memory",
    "saved_for_backward",
    "spread_outputs",
    "summary",
    "synthetic_image",
    "synthetic_input",
    "timed_parts",
]

# Standard deviation and mean that a layer's outputs are brought to, by the layer's last name: so
# that proposals and detections of random weights are many, different and of all sizes.
_OUTPUTS = {
    "objectness_logits": (2.0, 0.0),
    "anchor_deltas": (0.3, 0.0),
    "cls_score": (2.5, 0.0),
    "bbox_pred": (0.5, 0.0),
    "ctrness": (1.0, 0.0),
}


def environment(device: str) -> dict:
    """What a figure depends on: processor, threads, versions, and how busy the machine is."""
    found = {
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "opencv": cv2.__version__,
        "load_average": round(_load(), 2),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _load() -> float:
    try:
        with open("/proc/loadavg") as f:
            return float(f.read().split()[0])
    except OSError:
        return float("nan")


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    calls: dict[str, Callable[[], object]],
    repeat: int,
    device: str,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, one after the other in turn, so that a busy machine slows all alike.

    ``time.process_time`` as ``clock`` counts what the process itself computes, on all its threads:
    for one thread on a machine that others use too.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    seconds = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            _synchronize(device)
            start = clock()
            call()
            _synchronize(device)
            seconds[name].append(clock() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    return {
        "median_ms": round(statistics.median(seconds) * 1e3, 2),
        "min_ms": round(min(seconds) * 1e3, 2),
        "max_ms": round(max(seconds) * 1e3, 2),
        "repeat": len(seconds),
    }


@contextmanager
def timed_parts(
    model: nn.Module, device: str, clock: Callable[[], float] = time.perf_counter
) -> Iterator[dict[str, float]]:
    """Seconds that each part of a detector takes inside this context, by hooks.

    "trunk", "neck" (the backbone's rest), "proposals", "heads"; what is not in them is
    post-processing and input.  The dict fills up as the model runs.
    """
    parts: dict[str, float] = {}
    modules = {
        "trunk": getattr(model.backbone, "bottom_up", None),
        "backbone": model.backbone,
        "proposals": getattr(model, "proposal_generator", None),
        "heads": getattr(model, "roi_heads", getattr(model, "head", None)),
    }
    handles, starts = [], {}

    def start(name):
        def hook(*_):
            _synchronize(device)
            starts[name] = clock()

        return hook

    def stop(name):
        def hook(*_):
            _synchronize(device)
            parts[name] = parts.get(name, 0.0) + clock() - starts[name]

        return hook

    for name, module in modules.items():
        if module is not None:
            handles.append(module.register_forward_pre_hook(start(name)))
            handles.append(module.register_forward_hook(stop(name)))
    try:
        yield parts
    finally:
        for handle in handles:
            handle.remove()
        if "trunk" in parts:
            parts["neck"] = parts["backbone"] - parts["trunk"]


def peak_memory(device: str) -> int:
    """Bytes: of the GPU since its statistics were reset, else of the process so far."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def saved_for_backward(step: Callable[[], object]) -> int:
    """Bytes of the tensors that a forward pass keeps for its backward pass, parameters included.

    The same on every device and free of the allocator's chance.
    """
    storages: dict[int, tuple[int, object]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # The storage is held, so that its address is not given out again.
        storages[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(size for size, _ in storages.values())


def synthetic_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: smooth colours with rectangles and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (max(2, height // 50), max(2, width // 50), 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(30):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(8, max(9, width // 3)), rng.integers(8, max(9, height // 3))
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
    noise = rng.integers(-8, 8, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def synthetic_input(
    height: int, width: int, *, objects: int = 0, num_classes: int = 80, seed: int = 0
) -> dict:
    """A model's input for one image; with ``objects`` ground truth (boxes, masks, stuff map)."""
    image = torch.from_numpy(synthetic_image(height, width, seed).transpose(2, 0, 1).copy())
    record = {"image": image, "height": height, "width": width}
    if objects:
        generator = torch.Generator().manual_seed(seed)
        size = torch.tensor([width, height])
        start = torch.rand(objects, 2, generator=generator) * size * 0.7
        extent = (0.05 + 0.25 * torch.rand(objects, 2, generator=generator)) * size
        boxes = torch.cat([start, torch.minimum(start + extent, size)], dim=1)
        masks = torch.zeros(objects, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(0, num_classes, (objects,), generator=generator)
        instances.gt_masks = BitMasks(masks)
        record["instances"] = instances
        record["sem_seg"] = torch.randint(0, 183, (height, width), generator=generator)
    return record


@torch.no_grad()
def spread_outputs(model: nn.Module, inputs: list[dict]) -> None:
    """Scale random weights, in place, so that activations stay finite and detections are many."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.4)
    handles = []
    done = set()

    def hook(module, _, output, deviation, mean):
        if id(module) in done or output.numel() < 2:
            return None
        done.add(id(module))
        factor = deviation / output.std().clamp(min=1e-6)
        module.weight.mul_(factor)
        if module.bias is not None:
            module.bias.copy_(mean - output.mean() * factor + module.bias * factor)
        return output * factor + (mean - output.mean() * factor)

    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in _OUTPUTS and isinstance(module, (nn.Conv2d, nn.Linear)):
            deviation, mean = _OUTPUTS[last]
            if name == "head.bbox_pred":  # FCOS: logarithms of pixels
                mean = 3.6
            elif name == "head.cls_score":
                mean = -3.0

            def bound(m, i, o, deviation=deviation, mean=mean):
                return hook(m, i, o, deviation, mean)

            handles.append(module.register_forward_hook(bound))
    model.eval()
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
