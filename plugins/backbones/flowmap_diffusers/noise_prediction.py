"""Models of noise on a variance-preserving path, asked for the velocity of the straight one. Torch-free.

Such a model was trained on z = alpha x0 + sigma n, alpha^2 + sigma^2 = 1, at whole steps tau from 0 to 999 of the table
of DDPM (arXiv 2006.11239): alpha^2 is the product of 1 - beta, beta linear from 0.0001 to 0.02. Our path is
x_t = (1 - t) x0 + t n, which is z but for its length where sigma / alpha = t / (1 - t):

    z = x_t / sqrt((1 - t)^2 + t^2)

So tau(t) is where log(sigma / alpha) is the logit of t, between the table's steps on a line: continuous, and with a
derivative but at those steps. With eps = model(z, tau(t)) for n, x0 = (x_t - t eps) / (1 - t), and the velocity is

    n - x0 = (eps - x_t) / (1 - t)

An Euler step of it from one step of the table to another is a step of DDIM (arXiv 2010.02502).

Before the table's first step and after its last nothing is known, so times are clamped to where these are, that is to
sigma / (alpha + sigma): [0.0099, 0.99369]. Dividing by 1 - t, which is singular at t = 1, then multiplies errors of the
model by 158 at most. A time in float32 tells its step to 0.001 at the noise, and to 0.0001 most of the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from operator import mul
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
"""The table, as the schedulers of diffusers are told it; those of DiT and of PixArt are."""

_BETAS = [0.0001 + (0.02 - 0.0001) * step / 999 for step in range(1000)]
_KEPT = list(accumulate((1 - beta for beta in _BETAS), mul))

NOISINESS = [0.5 * math.log((1 - kept) / kept) for kept in _KEPT]
"""log(sigma / alpha) at every step; it rises."""

TIMES = [1 / (1 + math.exp(-value)) for value in NOISINESS]
"""The time at which the straight path is as noisy as the table at every step."""

FREQUENCY = max(
    1 / ((after - before) * min(t * (1 - t), s * (1 - s)))
    for (before, after), (t, s) in zip(pairwise(NOISINESS), pairwise(TIMES), strict=True)
)
"""Steps of the table per unit of t, where they are the most: about 15,800, at the noise; 760 in the middle."""


def step_of(t: Tensor) -> Tensor:
    """tau `[B]` in [0, 999] of times `[B]`; see the module."""
    import torch

    from flowmap.maths.devices import sent

    noisiness = t.clamp(TIMES[0], TIMES[-1]).logit()
    table = sent(torch.tensor(NOISINESS, dtype=t.dtype), t.device)
    low = (noisiness.detach()[:, None] >= table).sum(dim=1).sub(1).clamp(0, len(NOISINESS) - 2)
    return low + (noisiness - table[low]) / (table[low + 1] - table[low])


def velocity_of(noise: Callable[[Tensor, Tensor], Any], x: Tensor, t: Tensor) -> Tensor:
    """The velocity of `x` `[B, C, h, w]` at `t` `[B]` by a model of `noise(z, tau)`; see the module.

    Channels beyond the first C (of a learned sigma) are dropped.
    """
    there = t.clamp(TIMES[0], TIMES[-1])[:, None, None, None]
    length: Tensor = ((1 - there).square() + there.square()).sqrt()
    made: Tensor = noise(x / length, step_of(t))[:, : x.shape[1]]
    return (made - x) / (1 - there)
