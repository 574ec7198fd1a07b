"""Lagrangian distillation: flow map matching (arXiv 2406.07507), self-distilled (2505.18825).

The point that x_t is mapped to moves, as r does, with the velocity of where it is:
d/dr X_{t->r}(x_t) = v(X_{t->r}(x_t), r). From X = x - (t - r) u the left side is u - (t - r) du/dr
(docs/derivations.md, eqs. 8 and 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.distances import squared
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.maths.path import like
from flowmap.networks.points import on_path, velocity_at
from flowmap.networks.tangent import Question, value_and_slope
from flowmap_flow.derivative_configs import LagrangianConfig


@final
@dataclass(frozen=True)
class Lagrangian(StudentObjective):
    """|u - (t - r) du/dr - sg v(sg X_{t->r}(x_t), r)|^2, the mean over all elements.

    At r = t this is u(x_t, t, t) against the velocity there. With `velocity = "self"` v is the student's own u(., r, r)
    where r < t, and the data's e - x0 at r = t. Only r moves, so one tangent in one scalar is enough, and the network
    is never differentiated in x; but unlike the Eulerian derivative this one carries the gradient.

    Pitfalls. The teacher is asked where the student arrives, which is off its path as long as the student is wrong:
    start from the teacher's weights. Forward mode under autograd holds the graph of both value and tangent, about twice
    a usual one, and torch refuses it in blocks that are recomputed in backward (gradient checkpointing: "a different
    number of tensors was saved"); the difference (tangent.method = "central") takes plain calls and passes through
    those, but in bf16 its gradient is noise.
    """

    config: LagrangianConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, student = self.config, scene.flow_map("student")
        pairs = draw_pairs(scene.draw, config.branches, config.times)
        at, rows = on_path(scene, pairs, "data"), pairs.moving()
        u, du_dr = value_and_slope(student, Question(at.x, at.t, at.r, at.cond), rows, config.tangent)
        gap = like(at.t - at.r, at.x)
        # index_add and not an assignment: a spare row has no gap, and leaves u as it is.
        speed = u - torch.zeros_like(at.x).index_add(0, rows, (gap[rows] * du_dr).to(at.x))
        arrived = at.x - gap * u.detach()
        v = velocity_at(scene, at, arrived, at.r, config.velocity, config.cfg_scale)
        raw = squared(speed, v)
        yield Loss("lagrangian", raw.mean(), per_branch(raw, pairs))
