"""The discrete flow map: consistency trajectory models (arXiv 2310.02279) in average-velocity form.

The semigroup property X_{t->r} = X_{s->r}(X_{t->s}), with X_{t->s} by one step of the teacher and X_{s->r} by
the student's moving average, reads u* = w v + (1 - w) sg u_ema(x_s, s, r), where w = (t - s) / (t - r) and v
is the average velocity of the teacher's step. No derivative is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from flowmap.blocks import uniform_times
from flowmap.distances import squared
from flowmap.guidance import guided_velocity
from flowmap.interfaces import Loss, Objective, Scene, Turn
from flowmap.pairs import draw_pairs, per_branch
from flowmap.path import like, noised
from flowmap.solver import mean_velocity
from flowmap_flow import DiscreteFlowMapConfig


@final
class DiscreteFlowMap(Objective):
    """See the module; at r = t the target is the teacher's velocity."""

    def __init__(self, config: DiscreteFlowMapConfig) -> None:
        self._config = config

    def turns(self) -> tuple[Turn, ...]:
        """One update of the student."""
        return (Turn("student", self._losses),)

    def _losses(self, scene: Scene) -> Iterator[Loss]:
        config, draw = self._config, scene.draw
        batch = scene.forced()
        student, teacher = scene.flow_map("student"), scene.velocity("teacher")
        pairs = draw_pairs(draw, config.branches, uniform_times(config.shift))
        t, r = pairs.t, pairs.r
        x_t = noised(batch.x0, draw.normal("noise", batch.x0.shape[1:]), t)
        with torch.no_grad():
            target = guided_velocity(teacher, x_t, t, batch.cond, batch.null, config.cfg_scale)
            moving = pairs.moving()
            if len(moving):
                x, times, ends, v = x_t[moving], t[moving], r[moving], target[moving]
                cond, null = batch.cond.take(moving), batch.null.take(moving)
                middle = torch.maximum(times - config.step, ends)
                v = mean_velocity(
                    lambda x, t: guided_velocity(teacher, x, t, cond, null, config.cfg_scale),
                    x,
                    times,
                    middle,
                    config.solver,
                    first=v,
                )
                x_s = x - like(times - middle, x) * v
                with scene.roles["student"].averaged():
                    rest = student.mean_velocity(x_s, middle, ends, cond)
                # Where r = t (a row for company) the target is v.
                w = like(torch.where(ends < times, (times - middle) / (times - ends), 1.0), x)
                target[moving] = w * v + (1 - w) * rest
        raw = squared(student.mean_velocity(x_t, t, r, batch.cond), target)
        yield Loss("discrete_flow_map", raw.mean(), per_branch(raw, pairs.branch))
