"""The most memory that a process, or its accelerator, has held."""

from __future__ import annotations

import resource
import sys

import torch


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring peak memory afresh, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            pass  # not permitted here: the peak then counts from the start of the process


def peak_memory(device: torch.device) -> int:
    """Peak bytes since the last reset: allocated on the accelerator, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "linux":
        # Not getrusage: its peak is that of whoever started this process, and is never reset.
        with open("/proc/self/status", "rb", buffering=0) as file:
            _, _, peak = file.read().partition(b"\nVmHWM:")
        return int(peak.split(maxsplit=1)[0]) * 1024 if peak else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
