"""Mixed precision, on whatever device: the meta device, on which arithmetic is counted, has none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def is_mixed(device: torch.device) -> bool:
    """Whether what is multiplied on `device` is cast to a lower precision now."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def exactly(device: torch.device) -> AbstractContextManager[object]:
    """Within this context nothing is cast on `device`."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
