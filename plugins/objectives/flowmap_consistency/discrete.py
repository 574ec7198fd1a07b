"""Discrete consistency distillation and training (CM, arXiv 2303.01469; improved in 2310.14189).

x_s is one step back from x_t, by the teacher (distillation) or with the same noise (training). The predictions of data
D(x, t) = X_{t->0}(x) = x - t u(x, t, 0) must agree: d(D(x_t, t), sg D(x_s, s)) is minimised (docs/derivations.md, eqs.
17 and 18). With distance 'velocity', d is |D - D'|^2 / t^2 = |u(x_t, t, 0) - sg (x_t - D(x_s, s)) / t|^2.

As published (2310.14189, CIFAR-10): training with RAdam, lr 1e-4, batch 1024, EMA .99993, 400000 steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import final

import torch

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.path import like, noised
from flowmap.networks.points import drop_condition
from flowmap_consistency.parts import DiscreteConfig
from flowmap_consistency.steps import Step, distances, draw_start, joined, step_back, to_data, weights


@final
class DiscreteConsistency(StudentObjective):
    """weight(t, s) d(D(x_t, t), sg D(x_s, s)), with x0 itself (or the teacher's end) where s = 0.

    Pitfalls: training without a teacher is biased by an amount of the order of t - s, so the schedule should go on
    until that is small. The papers draw the same dropout mask at both times; networks here have no dropout, and what
    can be dropped, the condition, is dropped at both. Only the map to r = 0 is trained: sample with it.
    """

    def __init__(self, config: DiscreteConfig, step: Step, drop_condition: float = 0.0) -> None:
        self._config, self._step, self._drop = config, step, drop_condition

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, draw = self._config, scene.draw
        batch, _ = drop_condition(draw, scene.forced(), self._drop)
        role, student = scene.roles["student"], scene.flow_map("student")
        t = draw_start(draw, config)
        s = step_back(t, config, draw.step)
        noise = draw.normal("noise", batch.x0.shape[1:])
        x_t = noised(batch.x0, noise, t)
        with torch.no_grad():
            v = self._step.velocity(scene, batch, noise, x_t, t, s)
            with role.averaged() if config.target == "average" else nullcontext():
                rest = to_data(student, batch, x_t - like(t - s, x_t) * v, s)
            target = joined(v, rest, t, s)
        raw = distances(config, to_data(student, batch, x_t, t), target, t)
        yield Loss("consistency", (weights(config, t, s) * raw).mean(), {"distance": raw.detach()})
