"""The rectified-flow path between data (t = 0) and noise (t = 1), the shift, and sampling grids.

x_t = (1 - t) x0 + t e, with sample velocity v = dx/dt = e - x0 (flow matching, arXiv 2210.02747; rectified
flow, arXiv 2209.03003; docs/derivations.md, eq. 1). Times live in [0, 1], in float32 or wider.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.maths.devices import sent
from flowmap.maths.draw import Draw
from flowmap.schema.settings import TimesConfig


def like(t: Tensor, x: Tensor) -> Tensor:
    """Reshape times `[B]` or `[B, F]` so that they multiply `x` `[B, F, ...]`, in float32 or wider."""
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def noised(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point x_t `[B, F, ...]` on the path from `x0` to `noise` at `t` `[B]` or `[B, F]`."""
    t = like(t, x0)
    return (1 - t) * x0 + t * noise


def shifted(a: Tensor, s: float) -> Tensor:
    """Shift times towards noise: s a / (1 + (s - 1) a), which maps [0, 1] onto itself (arXiv 2403.03206).

    (docs/derivations.md, eq. 3)
    """
    return a if s == 1 else s * a / (1 + (s - 1) * a)


def grid(steps: int, shift: float = 1.0, device: torch.device | None = None) -> Tensor:
    """The `steps + 1` times from 1 to 0 of a sampling grid, t_k = shift(1 - k / steps), in float32."""
    even = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    times = shifted(even, shift).to(torch.float32)
    return times if device is None else sent(times, device)


def draw_times(draw: Draw, config: TimesConfig, name: str = "times") -> Tensor:
    """One time per sample `[B]` in (0, 1), distributed as `config` says."""
    if config.distribution == "uniform":
        t = draw.uniform(name)
    else:
        t = torch.sigmoid(config.mean + config.std * draw.normal(name))
    return shifted(t, config.shift)
