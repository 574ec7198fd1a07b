"""Mixed precision, on whatever device: the meta device, on which arithmetic is counted, has none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def is_mixed(device: torch.device) -> bool:
    """Whether what is multiplied on `device` is cast to a lower precision now."""
    return _has_mixed(device.type) and torch.is_autocast_enabled(device.type)


def exactly(device: torch.device) -> AbstractContextManager[object]:
    """Within this context nothing is cast on `device`."""
    if not _has_mixed(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


# The compiler of torch 2.11 and before does not see into the question, whose answer never changes.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_mixed(kind: str) -> bool:
    return bool(torch.amp.is_autocast_available(kind))
