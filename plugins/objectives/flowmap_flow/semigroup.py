"""The semigroup property of flow maps, self-distilled (arXiv 2505.18825, progressive self-distillation).

X_{t->r} = X_{s->r}(X_{t->s}) for t > s > r reads, for average velocities,
u(x_t, t, r) = lambda u(x_t, t, s) + (1 - lambda) u(X_{t->s}(x_t), s, r), with lambda = (t - s) / (t - r)
(docs/derivations.md, eqs. 6 and 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import FlowMap, Loss, Scene, StudentObjective
from flowmap.maths.distances import squared
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.maths.path import like
from flowmap.networks.points import Points, on_path
from flowmap_flow.composed_configs import SemigroupConfig


def by_way_of(network: FlowMap, at: Points, s: Tensor) -> Tensor:
    """The average velocity of going from t to r in two jumps, by way of `s` `[B]` in [r, t]: two network calls.

    It means nothing where r = t.
    """
    first = network.mean_velocity(at.x, at.t, s, at.cond)
    second = network.mean_velocity(at.x - like(at.t - s, at.x) * first, s, at.r, at.cond)
    share = like((at.t - s) / (at.t - at.r), at.x)
    return share * first + (1 - share) * second


def semigroup_loss(scene: Scene, at: Points, s: Tensor, name: str) -> Loss:
    """|u - sg[...]|^2: two jumps of the averaged student by way of `s` `[B]` where r < t, and `at.v` where r = t."""
    student, target, rows = scene.flow_map("student"), at.v, at.pairs.moving()
    if len(rows):
        with torch.no_grad(), scene.roles["student"].averaged():
            target = at.replaced(rows, by_way_of(student, at.take(rows), s[rows]))
    raw = squared(student.mean_velocity(at.x, at.t, at.r, at.cond), target)
    return Loss(name, raw.mean(), per_branch(raw, at.pairs))


@final
@dataclass(frozen=True)
class Semigroup(StudentObjective):
    """|u(x_t, t, r) - sg[lambda u_ema(x_t, t, s) + (1 - lambda) u_ema(X_{t->s}, s, r)]|^2, s uniform or halfway.

    At r = t the target is the teacher's velocity (distillation) or e - x0 (self-distillation): no derivative, two
    calls of the student's moving average a jump.

    Pitfalls. The flow of any velocity satisfies this: all that is known comes in at r = t, so those rows
    need their share, and what is wrong there is copied to all jumps. Errors of short jumps add up in long ones; the
    moving average (0.99 to 0.9999) keeps the student from chasing its own tail. Guidance belongs at r = t alone:
    applied again to the two jumps it would compound.
    """

    config: SemigroupConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config = self.config
        pairs = draw_pairs(scene.draw, config.branches, config.times)
        drop = config.drop_condition if config.velocity == "data" else 0.0
        at = on_path(scene, pairs, config.velocity, config.cfg_scale, drop, rows=pairs.resting())
        share = scene.draw.uniform("middle") if config.middle == "uniform" else 0.5
        s = torch.clamp(at.r + share * (at.t - at.r), min=at.r, max=at.t)
        yield semigroup_loss(scene, at, s, "semigroup")
