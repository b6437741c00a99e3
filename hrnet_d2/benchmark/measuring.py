"""Alternated timing, time for each part, memory, and what the figures depend on."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cv2
import torch
import torchvision

__all__ = [
    "environment",
    "peak_memory",
    "resident_memory",
    "speedup",
    "summary",
    "time_interleaved",
    "timed_parts",
]


def environment(device: str) -> dict:
    """What a figure depends on: processor, threads, versions, and how busy the machine is."""
    found = {
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instructions": _instructions(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "opencv": cv2.__version__,
        "load_average": round(_load(), 2),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["driver"] = _driver()
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def _driver() -> str:
    """Version of NVIDIA's driver; empty if it cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip().partition("\n")[0]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _instructions() -> str:
    """Vector and matrix units: the widest, then those of 16 and 8 bits."""
    probes = {"BF16": "avx512_bf16", "VNNI": "vnni", "AMX": "amx_tile"}
    names = [torch.backends.cpu.get_cpu_capability()]
    for name, probe in probes.items():
        has = getattr(torch.cpu, f"_is_{probe}_supported", None)
        names += [name] if has is not None and has() else []
    return " ".join(names)


def _load() -> float:
    try:
        with open("/proc/loadavg") as f:
            return float(f.read().split()[0])
    except OSError:
        return float("nan")


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeat: int,
    device: str,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, in turn, so that other load on the machine affects all alike.

    ``time.process_time`` as ``clock`` counts what the process itself computes, on all its threads:
    for one thread on a machine that runs other jobs too.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
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


def speedup(first: list[float], second: list[float]) -> float:
    """How many times as fast the second of two alternated calls is: the median of the pairs."""
    pairs = zip(first, second, strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


@contextmanager
def timed_parts(
    model: Any, device: str, clock: Callable[[], float] = time.perf_counter
) -> Iterator[dict[str, float]]:
    """Seconds that each part of a detector takes inside this context, by hooks.

    "bottom_up", "neck" (the rest of the backbone), "proposals", "heads"; what is not in them is
    post-processing and input.  The dict fills up as the model runs.
    """
    parts: dict[str, float] = {}
    modules: dict[str, Any] = {
        "bottom_up": getattr(model.backbone, "bottom_up", None),
        "backbone": model.backbone,
        "proposals": getattr(model, "proposal_generator", None),
        "heads": getattr(model, "roi_heads", getattr(model, "head", None)),
    }
    handles = []
    starts: dict[str, float] = {}

    def start(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            _synchronize(device)
            starts[name] = clock()

        return hook

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
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
        if "bottom_up" in parts:
            parts["neck"] = parts["backbone"] - parts["bottom_up"]


def peak_memory(device: str) -> int:
    """Bytes: of the GPU since its statistics were reset, else of the process so far."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _process_memory("VmHWM")


def resident_memory() -> int:
    """Bytes of main memory that the process takes now."""
    return _process_memory("VmRSS")


def _process_memory(entry: str) -> int:
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith(entry))
    except OSError as error:
        raise RuntimeError("Memory of the CPU is measured on Linux only") from error
