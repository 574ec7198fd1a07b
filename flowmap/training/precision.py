"""The precision of network calls: the same when a network is trained, measured and sampled."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, final

import torch
from accelerate.utils import convert_to_fp32
from torch import nn

from flowmap.schema.words import Precision


def compute_in(module: nn.Module, precision: Precision, device: torch.device) -> None:
    """Make calls of `module`, which will be on `device`, compute in `precision` from now on.

    With "bf16" matrix products and convolutions are taken in bfloat16, whatever the dtype of the weights, and results
    that are bfloat16 are returned as float32 (automatic mixed precision). Said again, the last word counts.
    """
    forward = module.forward
    plain = forward.plain if isinstance(forward, _Mixed) else forward
    module.forward = _Mixed(plain, device.type) if precision == "bf16" else plain


@final
class _Mixed:
    """A module's `plain` forward in mixed precision."""

    def __init__(self, plain: Callable[..., Any], device: str) -> None:
        wraps(plain)(self)
        self.plain, self._device = plain, device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self._device, torch.bfloat16):
            return convert_to_fp32(self.plain(*args, **kwargs))
