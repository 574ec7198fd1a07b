"""LCM sampling: predict data, noise it to the next time of a list, repeat; as released few-step students are sampled.

It is the multistep sampling of consistency models (arXiv 2303.01469, alg. 1; latent consistency models, 2310.04378) on
one list of times. A released student knows the noise level (sigma) of a time from a table of its training, by which
its prediction and the noise that is added are reckoned, while the network is told the time of the list:

    x0 = x - sigma u(x, t, 0),    x' = (1 - sigma') x0 + sigma' e

(docs/derivations.md, eqs. 17 and 23).

Where the list is that of two networks, one for times from a boundary b up, that one predicts the point x_b at the
boundary in the place of data. From there fresh noise brings it to a level s' above, as in gamma-sampling: x' = a x_b +
sqrt(s'^2 - a^2 b^2) e with a = (1 - s') / (1 - b) (docs/derivations.md, eq. 22); to the first time below the boundary
it goes as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Cond, Sampler, Velocity, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.maths.path import shifted

Level = Callable[[float], tuple[float, float]]
"""The noise level of a time in [0, 1], for the prediction and for the noise that is added to arrive there."""

_SAME = 1e-6
"""Between levels of a table are a thousandth or more, and rounding is a tenth of this."""


@final
class Lcm(Sampler):
    """See the module. At the time `boundary` the network changes; `rounded` is what it is told of a time."""

    def __init__(self, level: Level, boundary: float | None, rounded: Callable[[float], float]) -> None:
        self._level, self._boundary, self._rounded = level, boundary, rounded

    def order(self) -> int | None:
        """None: stochastic."""
        return None

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample; raises TypeError for a network with one time only. It steps in float64."""
        flow_map = as_flow_map(network)
        precision, listed = x.dtype, [float(t) for t in times.double()]
        b = 0.0 if self._boundary is None else self._level(self._boundary)[0]
        for index, (t, following) in enumerate(itertools.pairwise(listed)):
            arrived = index + 2 == len(listed) and following == 0
            towards = b if self._is_high(t) else 0.0
            told, to = (x.new_full((len(x),), time) for time in (self._rounded(self._listed(t)), towards))
            u = flow_map.mean_velocity(x, told, to, cond)
            point = x.double() - (self._level(t)[0] - towards) * u.double()
            if not arrived and not (self._is_high(t) and not self._is_high(following)):
                level = self._level(following)[1]
                keep = (1 - level) / (1 - towards)
                added = max(0.0, level**2 - (keep * towards) ** 2) ** 0.5
                point = keep * point + added * draw.normal(f"renoise-{index}", x.shape[1:]).double()
            x = point.to(precision)
        return x

    def _listed(self, t: float) -> float:
        """`t` as the table of levels has it, where it does: to the last digit, which a fast sinusoid shows."""
        level = self._level(t)[0]
        return level if abs(level - t) < _SAME else t

    def _is_high(self, t: float) -> bool:
        return self._boundary is not None and t >= self._boundary


def exact(t: float) -> tuple[float, float]:
    """The level is the time."""
    return t, t


def nearest(shift: float) -> Level:
    """The nearest of a thousand levels, those of an even grid from 1 shifted (Self-Forcing's `utils/scheduler.py`)."""
    table = shifted(torch.linspace(1, 0, 1001)[:-1], shift)

    def level(t: float) -> tuple[float, float]:
        found = float(table[int((table * 1000 - 1000 * t).abs().argmin())])
        return found, found

    return level


def whole_thousandths(shift: float) -> Level:
    """Of a thousand levels from 0.999, by times cut to thousandths: the first of a time predicts, the second noises.

    That is LightX2V's scheduler (`WanSFScheduler`), which finds its way in the table by such times.
    """
    table = shifted(torch.linspace(0.999, 0, 1001)[:-1], shift)
    cut = (1000 * table).int()

    def level(t: float) -> tuple[float, float]:
        places = (cut == round(1000 * t)).nonzero().flatten()
        if not len(places):
            return exact(t)
        return float(table[places[0]]), float(table[places[min(1, len(places) - 1)]])

    return level


def in_bfloat16(t: float) -> float:
    """The time as a network gets it that is told a thousand times it in bfloat16."""
    return float(torch.tensor(1000 * t).bfloat16()) / 1000


def as_it_is(t: float) -> float:
    """The time."""
    return t
