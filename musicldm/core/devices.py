"""Devices and precisions."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from musicldm.core.errors import UsageError


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first CUDA device, else Apple's GPU, else the CPU.

    Raises:
        UsageError: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # also refuses "meta", which computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Of these, a torch without CUDA raises an AssertionError, and an unknown name a RuntimeError.
        raise UsageError(
            f"There is no device {name!r} on this machine.", "Try --device auto or --device cpu."
        ) from error
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """One of "32", "16" and "bf16"; `auto` takes bf16 where the GPU has it in hardware, 16 on an older one.

    Raises:
        UsageError: an unknown precision.
    """
    if name == "auto":
        if device.type != "cuda":
            return "32"
        # By default torch also says yes to older GPUs, which only emulate bf16, and slowly.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    if name not in ("32", "16", "bf16"):
        raise UsageError(f"Unknown precision {name!r}.", "Choose auto, 32, 16 or bf16.")
    if name == "16" and device.type == "cpu":
        raise UsageError("A CPU has no use for 16-bit floats.", "Choose --precision 32 or bf16.")
    return name


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which heavy arithmetic runs in fewer bits; weights stay float32."""
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)
