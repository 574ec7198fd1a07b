"""The discrete flow map: consistency trajectory models (arXiv 2310.02279) in average-velocity form.

The semigroup property X_{t->r} = X_{s->r}(X_{t->s}), with X_{t->s} by one step of the teacher and X_{s->r} by
the student's moving average, reads u* = w v + (1 - w) sg u_ema(x_s, s, r), where w = (t - s) / (t - r) and v
is the average velocity of the teacher's step. No derivative is needed (docs/derivations.md, eq. 14).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.distances import squared
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.maths.path import like
from flowmap.maths.solver import mean_velocity
from flowmap.networks.guidance import guided_velocity
from flowmap.networks.points import Points, on_path
from flowmap.schema.settings import uniform_times
from flowmap_flow.configs import DiscreteFlowMapConfig


@final
@dataclass(frozen=True)
class DiscreteFlowMap(StudentObjective):
    """See the module; at r = t the target is the teacher's velocity."""

    config: DiscreteFlowMapConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, student = self.config, scene.flow_map("student")
        pairs = draw_pairs(scene.draw, config.branches, uniform_times(config.shift))
        at = on_path(scene, pairs, "teacher", config.cfg_scale)
        target, rows = at.v, pairs.moving()
        if len(rows):
            target = at.replaced(rows, self._by_the_teacher(scene, at.take(rows)))
        raw = squared(student.mean_velocity(at.x, at.t, at.r, at.cond), target)
        yield Loss("discrete_flow_map", raw.mean(), per_branch(raw, pairs))

    @torch.no_grad()
    def _by_the_teacher(self, scene: Scene, at: Points) -> Tensor:
        """The average velocity of one step of the teacher, then one jump of the averaged student; r < t."""
        config, teacher = self.config, scene.velocity("teacher")
        s = torch.maximum(at.t - config.step, at.r)
        v = mean_velocity(
            lambda x, t: guided_velocity(teacher, x, t, at.cond, at.null, config.cfg_scale),
            at.x,
            at.t,
            s,
            config.solver,
            first=at.v,
        )
        with scene.roles["student"].averaged():
            rest = scene.flow_map("student").mean_velocity(at.x - like(at.t - s, at.x) * v, s, at.r, at.cond)
        w = like((at.t - s) / (at.t - at.r), at.x)
        return w * v + (1 - w) * rest
