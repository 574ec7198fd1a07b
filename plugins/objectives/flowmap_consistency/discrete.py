"""Discrete consistency distillation (arXiv 2303.01469), with the loss in velocity space.

On a grid of times, x_s is one teacher step from x_t; D(x, t) = X_{t->0}(x) must agree at both:
|u(x_t, t, 0) - sg (x_t - D_ema(x_s, s)) / t|^2, which is |D(x_t, t) - D_ema(x_s, s)|^2 / t^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from flowmap.guidance import guided_velocity
from flowmap.interfaces import Loss, Objective, Scene, Turn
from flowmap.path import grid, like, noised
from flowmap.solver import mean_velocity
from flowmap_consistency import ConsistencyConfig


@final
class DiscreteConsistency(Objective):
    """See the module. At s = 0, D is the identity, so the target is the teacher's endpoint itself."""

    def __init__(self, config: ConsistencyConfig) -> None:
        self._config = config

    def turns(self) -> tuple[Turn, ...]:
        """One update of the student."""
        return (Turn("student", self._losses),)

    def _losses(self, scene: Scene) -> Iterator[Loss]:
        config, draw = self._config, scene.draw
        batch = scene.forced()
        student, teacher = scene.flow_map("student"), scene.velocity("teacher")
        times = grid(config.points, config.shift, device=batch.x0.device)
        index = (draw.uniform("point") * config.points).long()
        t, s = times[index], times[index + 1]
        zero = torch.zeros_like(t)
        x_t = noised(batch.x0, draw.normal("noise", batch.x0.shape[1:]), t)
        with torch.no_grad():
            v = mean_velocity(
                lambda x, t: guided_velocity(teacher, x, t, batch.cond, batch.null, config.cfg_scale),
                x_t,
                t,
                s,
                config.solver,
            )
            x_s = x_t - like(t - s, x_t) * v
            with scene.roles["student"].averaged():
                end = student.jump(x_s, s, zero, batch.cond)
            target = (x_t - end) / like(t, x_t)
        predicted = student.mean_velocity(x_t, t, zero, batch.cond)
        yield Loss("consistency", (predicted - target).square().mean())
