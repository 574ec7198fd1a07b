"""Forward flow-map training: AnyFlow's stage 2 (arXiv 2605.13724), the MeanFlow identity (2505.13447).

u(x_t, t, r) is regressed on sg[v - (t - r) du/dt], with guidance fused into the student (docs/derivations.md, eqs. 12
and 16). docs/worked-objective.md goes through it line by line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.devices import rows_where, sent
from flowmap.maths.distances import squared
from flowmap.maths.pairs import Pairs, draw_pairs, per_branch
from flowmap.maths.path import draw_times, like, noised, shifted
from flowmap.networks.guidance import guided_velocity, unguided
from flowmap.networks.points import drop_condition
from flowmap.networks.tangent import Question, tangent_and
from flowmap.schema.settings import TimesConfig, uniform_times
from flowmap_flow.configs import FlowMapConfig

_REBALANCE_FLOOR = 1e-5


@cache
def _weight_table(name: str, shift: float) -> tuple[Tensor, Tensor]:
    """The 1001 shifted grid points and their weights, normalised to sum to 1000."""
    points = shifted(torch.linspace(0, 1, 1001, dtype=torch.float64), shift)
    if name == "beta08":
        weights = points * (1 - points).sqrt()
    else:
        weights = torch.exp(-2 * (points - 0.5) ** 2)
        weights = weights - weights.min()
    return points, weights * 1000 / weights.sum()


def loss_weight(name: str, t: Tensor, shift: float) -> Tensor:
    """The weight of shifted times `t` (any shape), which are on the CPU: that of the nearest grid point."""
    if name == "uniform":
        return torch.ones_like(t)
    points, weights = _weight_table(name, shift)
    times = t.double()
    above = torch.searchsorted(points, times).clamp(1, len(points) - 1)
    nearest = torch.where(times - points[above - 1] <= points[above] - times, above - 1, above)
    return weights[nearest].to(t)


@final
@dataclass(frozen=True)
class ForwardFlowMap(StudentObjective):
    """The forward objective; see the module."""

    config: FlowMapConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        draw, config = scene.draw, self.config
        pairs = draw_pairs(draw, config.branches, uniform_times(config.shift))
        batch, _ = drop_condition(draw, scene.batch, config.drop_condition)
        scene = replace(scene, batch=batch)
        seen = scene.forced()
        yield self.loss(replace(scene, batch=seen), draw.normal("noise", seen.x0.shape[1:]), pairs)
        if config.bidirectional and draw.shared("bidirectional").random() < config.bidirectional:
            yield self._bidirectional(scene)

    def _bidirectional(self, scene: Scene) -> Loss:
        """Flow matching over all frames as one chunk, at times as of a teacher's training; guided as `loss` is."""
        draw, batch = scene.draw.child("bidirectional"), scene.chunking.whole(scene.batch)
        student = scene.flow_map("student")
        noise = draw.normal("noise", batch.x0.shape[1:])
        t = draw_times(draw, TimesConfig(shift=self.config.shift))
        x_t = noised(batch.x0, noise, t)
        with torch.no_grad():
            v, w = self._velocity(replace(scene, batch=batch), x_t, t, noise)
            null = student.velocity(x_t, t, batch.null) if w != 1 else None
        u = student.velocity(x_t, t, batch.cond)
        if null is not None:
            u = unguided(u, null, w)
        return Loss("bidirectional", (u - v).square().mean())

    def _velocity(self, scene: Scene, x_t: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, float]:
        """The velocity to learn at `x_t` `[B, F, ...]`, `t` `[B]`, and the guidance that the student adds to it.

        A teacher's velocity is guided already.
        """
        config, batch = self.config, scene.batch
        if config.velocity == "data":
            return noise - batch.x0, config.cfg_scale
        teacher = scene.velocity("teacher")
        return guided_velocity(teacher, x_t, t, batch.cond, batch.null, config.cfg_scale), 1.0

    def loss(self, scene: Scene, noise: Tensor, pairs: Pairs) -> Loss:
        """The loss of the scene's batch as it is, for given `noise` `[B, F, ...]` and times."""
        config, batch = self.config, scene.batch
        student = scene.flow_map("student")
        t, r = pairs.t, pairs.r
        x_t = noised(batch.x0, noise, t)
        with torch.no_grad():
            v, w = self._velocity(scene, x_t, t, noise)
            # (t - r) du/dt vanishes at r = t: only the other rows pay for it. As published, the null's part in the
            # derivative of the guided u is left out.
            m = pairs.moving()
            moving = Question(x_t[m], t[m], r[m], batch.cond.take(m))
            nulls = [Question(x_t, t, r, batch.null)] if w != 1 else []
            du_dt, *null = tangent_and(student, moving, v[m], config.tangent, *nulls)
            target = v.clone()
            target[m] -= like(t[m] - r[m], v) * (du_dt / w)
        u = student.mean_velocity(x_t, t, r, batch.cond)
        if null:
            u = unguided(u, null[0], w)
        raw = squared(u, target)
        weight = sent(loss_weight(config.weight, pairs.here.t, config.shift), raw.device)
        losses = raw * (weight.mean(1) if weight.ndim == 2 else weight)
        if config.rebalance:
            losses = losses * self._balance(losses.detach(), pairs, scene)
        return Loss("flow_map", losses.mean(), per_branch(raw, pairs))

    def _balance(self, losses: Tensor, pairs: Pairs, scene: Scene) -> Tensor:
        """What brings each r < t loss to the mean r = t loss of the global batch; 1 on the r = t samples.

        Micro-batches have the r = t samples first, so their mean is known when the first r < t sample needs it.
        """
        diffusion = pairs.branch == 0
        rows = rows_where(pairs.here.branch == 0, losses.device)
        total = scene.world.total("r = t", torch.stack([losses[rows].sum(), diffusion.sum().to(losses)]))
        return torch.where(diffusion, torch.ones_like(losses), total[0] / total[1] / (losses + _REBALANCE_FLOOR))
