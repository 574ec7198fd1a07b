"""From the CPU to an accelerator without waiting for it.

Numbers of a run are drawn on the CPU, and what is decided by them is decided there. An accelerator works behind the
program that tells it what to do; whoever asks it for a number waits until it has come so far. So nothing that was on
the CPU a moment before is asked for again: choose rows there, and send their numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; from the CPU to an accelerator the copy is made while the program goes on."""
    if device.type == "cpu" or x.device.type != "cpu":
        return x.to(device)
    # Torch keeps pinned memory until the copy has been made.
    return pinned(x).to(device, non_blocking=True)


def pinned(x: Tensor) -> Tensor:
    """`x`, which is on the CPU, in memory that stays where it is: an accelerator copies it unwaited for."""
    return x.pin_memory() if torch.accelerator.is_available() else x


def rows_where(mask: Tensor, device: torch.device) -> Tensor:
    """The rows `[K]` (int64), on `device`, where `mask` `[B]` is true, which is on the CPU."""
    return sent(mask.nonzero().flatten(), device)
