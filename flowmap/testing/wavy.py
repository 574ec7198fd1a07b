"""A velocity without symmetries, and where it carries samples: on the flow of a Gaussian some methods do better."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap, NoCond
from flowmap.maths.path import like


@final
class Wavy(FlowMap):
    """A velocity without symmetries: on the flow of a Gaussian some methods do better than in general."""

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """The velocity at t."""
        t = like(t, x)
        return torch.sin(2 * x + t) * torch.cos(3 * t) + t * x


def carried(x: Tensor, steps: int = 512) -> Tensor:
    """Where the wavy velocity carries `x` from t = 1 to 0, by the classical Runge-Kutta method."""
    field, h = Wavy(), 1 / steps

    def v(x: Tensor, t: float) -> Tensor:
        return field.velocity(x, torch.full((len(x),), t, dtype=x.dtype), NoCond())

    for k in range(steps):
        t = 1 - k * h
        a = v(x, t)
        b = v(x - 0.5 * h * a, t - 0.5 * h)
        c = v(x - 0.5 * h * b, t - 0.5 * h)
        d = v(x - h * c, t - h)
        x = x - h / 6 * (a + 2 * b + 2 * c + d)
    return x
