"""Continuous-time consistency models (sCM, arXiv 2410.11081, algorithm 1), on the TrigFlow path.

At the angle a, x = cos a x0 + sigma_d sin a e, and D = cos a x - sigma_d sin a F(x, a) predicts x0. With v = dx/da,
the teacher's (sCD) or the sample's (sCT), and F- = sg F,

    g = -cos^2 a (sigma_d F- - v) - k cos a sin a (x + sigma_d dF-/da),     loss = |F - F- - g / (|g| + 0.1)|^2

(docs/derivations.md, eqs. 31, 32 and 33).
At k = 1, g = cos a dD/da, the change of the prediction along the trajectory. At k = 0 it is zero where sigma_d F = v:
the student is held to the velocity, which it starts from. k grows over `warmup` steps. In the released code of rCM
(arXiv 2510.08431; `ramp` "rcm") it is another:

    g = -cos a sqrt(1 - k^2 sin^2 a) (sigma_d F- - v) - cos a sin a (k x + sigma_d dF-/da),

the same at k = 1 (docs/derivations.md, eq. 34). At k = 0 that is zero nowhere near the teacher's velocity: the
derivative is in it from the start.

F is no other network: it is the student's u(x, t, 0) in TrigFlow's coordinates (flowmap.maths.trigflow).
As published (sCD, CIFAR-10): RAdam, lr 1e-4, betas (.9, .99).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Cond, FlowMap, Loss, Scene, StudentObjective, World
from flowmap.maths.distances import elements, normalized, squared
from flowmap.maths.path import like
from flowmap.maths.trigflow import RIGHT_ANGLE, TrigFlow
from flowmap.networks.guidance import guided_velocity
from flowmap.networks.tangent import tangent
from flowmap_consistency.configs import ScmConfig

_LAST = RIGHT_ANGLE - 1e-4  # where tan a is 10^4: nearer, what little the data add is lost to rounding
_FLOOR = 1e-6  # of |F - F- - g|^2, below which nothing is scaled up


@final
class TrigStudent(FlowMap):
    """F(x, a) of a student's u(x, t, 0): a network whose time is the angle. The time mapped to is 0 whatever `r`.

    The student is asked in `dtype`, whatever the points are in.
    """

    def __init__(self, student: FlowMap, flow: TrigFlow, dtype: torch.dtype) -> None:
        self._student, self._flow, self._dtype = student, flow, dtype

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """F at TrigFlow points `x` `[B, F, ...]` and angles `t` `[B]`."""
        point = self._flow.rectified_point(x, t).to(self._dtype)
        time = times_for(point, self._flow.time_of(t))
        u = self._student.mean_velocity(point, time, torch.zeros_like(time), cond)
        return self._flow.trig_velocity(u, x, t)


def times_for(x: Tensor, time: Tensor) -> Tensor:
    """`time` as networks take it beside `x`: in float32 or wider."""
    return time.to(torch.promote_types(x.dtype, torch.float32))


def consistency_tangent(
    F: Tensor,
    v: Tensor,
    x: Tensor,
    dF_da: Tensor,
    angle: Tensor,
    sigma_d: float,
    k: float,
    ramp: Literal["paper", "rcm"] = "paper",
) -> Tensor:
    """g at `x` `[B, F, ...]` and `angle` `[B]`, in float64; see the module."""
    angle = like(angle.double(), x)
    cos, sin = torch.cos(angle), torch.sin(angle)
    if ramp == "rcm":
        held = cos * torch.sqrt(1 - k**2 * sin**2)
        return -held * (sigma_d * F - v) - cos * sin * (k * x + sigma_d * dF_da)
    return -(cos**2) * (sigma_d * F - v) - k * cos * sin * (x + sigma_d * dF_da)


@final
class ContinuousConsistency(StudentObjective):
    """See the module.

    The paper learns a log-variance w(a) with E[e^w loss - w]. An objective has no parameters, but the optimum is
    known: e^w = 1 / E[loss | a]. It is estimated from the global batch in `bins` of angles, without gradient; the
    whole batch must be there at once, so that gradients are not accumulated with it.

    Pitfalls: the derivative is not for bf16, and TF32 is too coarse for it too; leave both off. The paper's
    double normalisation and its positional time embedding belong to its network: a network with features of high
    frequency in t has a large derivative, and needs small learning rates or a long warm-up.
    """

    def __init__(self, config: ScmConfig) -> None:
        self._config, self._flow = config, TrigFlow(config.sigma_d)

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, flow, draw, batch = self._config, self._flow, scene.draw, scene.forced()
        network = TrigStudent(scene.flow_map("student"), flow, batch.x0.dtype)
        normal = draw.normal("angle").double()
        angle = torch.atan(torch.exp(config.mean + config.std * normal) / config.sigma_d).clamp(max=_LAST)
        noise = draw.normal("noise", batch.x0.shape[1:])
        x = flow.noised(batch.x0, noise, angle)
        with torch.no_grad():
            v = config.sigma_d * flow.trig_velocity(self._velocity(scene, batch, noise, x, angle), x, angle)
            dF_da = tangent(network, x, angle, angle, v, batch.cond, config.tangent, end=RIGHT_ANGLE)
        F = network.mean_velocity(x, angle, angle, batch.cond)
        with torch.no_grad():
            g = consistency_tangent(F, v, x, dF_da, angle, config.sigma_d, self._warmth(draw.step), config.ramp)
            size = g.flatten(1).norm(dim=1)
            target = F + (normalized(g) if config.normalize else g).to(F.dtype)
        losses = squared(F, target)
        kept = losses.detach()
        if config.bins:
            bins = (torch.special.ndtr(normal) * config.bins).long().clamp(max=config.bins - 1)
            losses = losses * self._weights(kept, bins, elements(x), scene.world)
        yield Loss("scm", losses.mean(), {"loss": kept, "tangent": size})

    def _velocity(self, scene: Scene, batch: Batch, noise: Tensor, x: Tensor, angle: Tensor) -> Tensor:
        """dx/dt of the rectified path."""
        if self._config.velocity == "data":
            return noise - batch.x0
        t = times_for(x, self._flow.time_of(angle))
        x = self._flow.rectified_point(x, angle)
        return guided_velocity(scene.velocity("teacher"), x, t, batch.cond, batch.null, self._config.cfg_scale)

    def _warmth(self, step: int) -> float:
        """k: from 0 to 1 over the warm-up."""
        return min(1.0, step / self._config.warmup) if self._config.warmup else 1.0

    def _weights(self, losses: Tensor, bins: Tensor, size: int, world: World) -> Tensor:
        """1 / mean of the losses of each sample's bin `[B]`, over the global batch."""
        member = (bins[:, None] == torch.arange(self._config.bins, device=bins.device)).double()
        table = torch.stack([losses.double(), torch.ones_like(losses, dtype=torch.float64)]) @ member
        sums, counts = world.total("loss by time", table)
        return (counts / (sums + counts * _FLOOR / size))[bins].to(losses.dtype)
