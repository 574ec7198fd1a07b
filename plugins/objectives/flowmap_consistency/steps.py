"""What discrete consistency objectives are made of: pairs of times, the step between them, the target, the loss.

D(x, t) = X_{t->0}(x) = x - t u(x, t, 0) must agree at x_t and at x_s = x_t - (t - s) v. In velocities that is
u(x_t, t, 0) = w v + (1 - w) u(x_s, s, 0), w = (t - s) / t, which has no difference of near numbers in it, and at s = 0
it is v itself: D there is the identity, whatever the network says (docs/derivations.md, eqs. 7 and 17).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, FlowMap, Scene
from flowmap.maths.devices import sent
from flowmap.maths.distances import pseudo_huber, squared
from flowmap.maths.draw import Draw
from flowmap.maths.path import draw_times, grid, like, shifted
from flowmap.maths.solver import Solver, mean_velocity
from flowmap.networks.guidance import guided_velocity
from flowmap.schema.settings import TimesConfig
from flowmap_consistency.parts import DiscreteConfig

_EARLIEST = 1e-5  # nearer to the data, float32 has no digits left for t - s
_RHO = 0.999
_LEAST = 1e-12  # in place of a 0 below a 0, which stands for 0


def draw_start(draw: Draw, config: DiscreteConfig, earliest: float = 0.0) -> Tensor:
    """The time t >= `earliest` of each sample, `[B]`, on the device of the draw."""
    if config.schedule == "improved":
        return late_times(draw, config.times, max(earliest, _EARLIEST))
    times = grid(config.points, config.shift)
    starts = int((times[:-1] >= earliest).sum())
    return sent(times[(draw.here.uniform("point") * starts).long()], draw.device)


def step_back(t: Tensor, config: DiscreteConfig, step: int) -> Tensor:
    """The time s < t that belongs to each `t` `[B]` at this step of the training."""
    if config.schedule == "improved":
        return improved(t, config.start_stage + step // config.double_every, config.mapping)
    rising = grid(config.points, config.shift, t.device).flip(0)
    return rising[torch.searchsorted(rising, t) - 1]


def improved(t: Tensor, stage: int, mapping: Literal["noise", "time"]) -> Tensor:
    """The time s that belongs to each time `t` in [0, 1], at a `stage` from 0.

    With l the noise level t / (1 - t) (`mapping` "noise") or the time itself ("time"), that of s is

        l - l q,  q = (1 - rho) (1 + 8 sigmoid(-l)), at most 1,  rho = 1 - 2^-(stage + 1), at most 0.999.

    The mapping of arXiv 2406.14548 (ECT), which takes the doublings of 2310.14189 to the continuous-time limit. At
    stage 0, s is 0 for all small l.
    """
    rho = min(1 - 2.0 ** -(stage + 1), _RHO)
    level = t / (1 - t) if mapping == "noise" else t
    part = ((1 - rho) * (1 + 8 * torch.sigmoid(-level))).clamp(max=1.0)
    left = t * (1 - part)
    # In noise levels no difference of infinities: l (1 - q) / (1 + l (1 - q)), times 1 - t above and below.
    return left if mapping == "time" else left / (1 - t * part).clamp(min=_LEAST)


def late_times(draw: Draw, config: TimesConfig, earliest: float) -> Tensor:
    """Times `[B]` distributed as `config` says, given that they are not below `earliest` > 0."""
    if earliest <= _EARLIEST:
        return draw_times(draw, config).clamp(min=earliest)
    low = float(shifted(torch.tensor(earliest, dtype=torch.float64), 1 / config.shift))
    part = draw.uniform("times").double()
    if config.distribution == "uniform":
        a = low + (1 - low) * part
    else:
        # By the inverse of the distribution function, from its value at `low` up.
        below = torch.special.ndtr((torch.logit(torch.tensor(low, dtype=torch.float64)) - config.mean) / config.std)
        a = torch.sigmoid(config.mean + config.std * torch.special.ndtri(below + (1 - below) * part))
    return shifted(a, config.shift).float().clamp(min=earliest)


class Step(ABC):
    """How a trajectory goes from x_t to x_s."""

    @abstractmethod
    def velocity(self, scene: Scene, batch: Batch, noise: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """v in x_s = x - (t - s) v, for `x` `[B, F, ...]` on the path from the batch to `noise`, `s <= t` `[B]`."""


@final
class SampleStep(Step):
    """Along the sample's own path: x_s has the same noise as x_t."""

    def velocity(self, scene: Scene, batch: Batch, noise: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See Step.velocity."""
        return noise - batch.x0


@final
@dataclass(frozen=True)
class TeacherStep(Step):
    """One step of the guided teacher's ODE."""

    solver: Solver
    cfg_scale: float

    def velocity(self, scene: Scene, batch: Batch, noise: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See Step.velocity."""
        teacher, scale = scene.velocity("teacher"), self.cfg_scale
        return mean_velocity(
            lambda x, t: guided_velocity(teacher, x, t, batch.cond, batch.null, scale), x, t, s, self.solver
        )


def to_data(network: FlowMap, batch: Batch, x: Tensor, t: Tensor) -> Tensor:
    """u(x, t, 0) `[B, F, ...]`, of which D = x - t u."""
    return network.mean_velocity(x, t, torch.zeros_like(t), batch.cond)


def joined(v: Tensor, rest: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The average velocity from t to 0 of going from t to s with `v` and from there to 0 with `rest`."""
    w = like((t - s) / t, v)
    return w * v + (1 - w) * rest


def distances(config: DiscreteConfig, u: Tensor, target: Tensor, t: Tensor) -> Tensor:
    """How far `u` `[B, F, ...]` is from its target, `[B]`."""
    if config.distance == "velocity":
        return squared(u, target)
    # x_t is in both predictions of x0, and drops out of their difference.
    return pseudo_huber(like(t, u) * u, like(t, u) * target, config.huber_scale)


def weights(config: DiscreteConfig, t: Tensor, s: Tensor) -> Tensor:
    """1, or with the improved schedule 1 / (t - s) `[B]`, of noise levels or of times, see DiscreteConfig.mapping.

    That is in units of D. The distance of velocities, D / t, has t / (t - s): the same but for the units, in which
    early times, where t - s is a fixed part of t, would outweigh everything else.
    """
    if config.schedule == "grid":
        return torch.ones_like(t)
    # t / (1 - t) - s / (1 - s) is (t - s) / ((1 - t) (1 - s)).
    unit = (1 - t) * (1 - s) if config.mapping == "noise" else torch.ones_like(t)
    return (t if config.distance == "velocity" else 1.0) * unit / (t - s).clamp(min=_LEAST)
