"""What types the processor at hand computes fast."""

import torch

__all__ = ["has_fast_bfloat16", "has_fast_float16"]


def _cpu_has(*names: str) -> bool:
    probes = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in names]
    return any(probe is not None and probe() for probe in probes)


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for products of bfloat16.

    On a CPU these are AMX or AVX512-BF16; PyTorch computes elsewhere as well, but slower than in
    float32.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return _cpu_has("avx512_bf16", "amx_tile")
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_capability(device)[0] >= 8
    return False


def has_fast_float16(device: torch.device | str) -> bool:
    """Whether a device has instructions for products of float16, on a CPU AMX-FP16."""
    return torch.device(device).type != "cpu" or _cpu_has("amx_fp16")
