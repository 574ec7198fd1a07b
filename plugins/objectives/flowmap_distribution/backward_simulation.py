"""Flow Map Backward Simulation (AnyFlow's stage 3, arXiv 2605.13724).

The student rolls out its own map in at most three segments, X_{1->t_g}, X_{t_g->t_g+1} and X_{t_g+1->0}, with
gradient through all. Distribution matching distillation (DMD2, arXiv 2405.14867) pulls the result towards the
teacher's distribution; a critic learns the student's. A forward objective shares the student's step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from flowmap.draw import Draw
from flowmap.guidance import guided_velocity
from flowmap.interfaces import Batch, Loss, Objective, Scene, Turn, Window
from flowmap.path import draw_times, grid, like, noised, shifted
from flowmap.rollout import rollout
from flowmap_distribution import BackwardSimulationConfig


def segments(steps: int, fine: int, shift: float) -> Tensor:
    """The times 1, t_g, t_{g+1}, 0 of a rollout on the grid of `steps`, for fine step g = `fine`, each once."""
    times = grid(steps, shift)
    return torch.cat([times[:1], times[fine : fine + 2], times[-1:]]).unique().flip(0)


def dmd_gradient(x: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """(fake - real) / mean|x - real| per sample, 0 where that is NaN (as published); all `[B, F, ...]`."""
    size = (x - real).abs().flatten(1).mean(1)
    gradient = (fake - real) / like(size, x)
    return torch.where(gradient.isnan(), 0.0, gradient)


@final
class BackwardSimulation(Objective):
    """See the module."""

    def __init__(self, config: BackwardSimulationConfig) -> None:
        self._config = config
        self._sampler = config.sampler.build()
        forward = config.forward.build() if config.forward else None
        self._forward = forward.turns() if forward else ()

    def turns(self) -> tuple[Turn, ...]:
        """One update of the student, then one of the critic, each on its own batch and rollout."""
        return (Turn("student", self._student), Turn("critic", self._critic))

    def _student(self, scene: Scene) -> Iterator[Loss]:
        made = self._roll(scene)
        tau = shifted(scene.draw.uniform("score time"), self._config.shift)
        yield self.distribution_loss(scene, made, tau, scene.draw.normal("score noise", made.x0.shape[1:]))
        del made
        for turn in self._forward:
            for loss in turn.losses(replace(scene, draw=scene.draw.child("forward"))):
                yield Loss(loss.branch, loss.value * self._config.forward_weight, loss.raw)

    def distribution_loss(self, scene: Scene, made: Batch, tau: Tensor, noise: Tensor) -> Loss:
        """mean((x - sg[x - g])^2) in float64, x the rollout `made`, g the DMD gradient at score times `tau` `[B]`."""
        x, batch = made.x0, made
        with torch.no_grad():
            y = noised(x, noise, tau)
            v_fake = scene.velocity("critic").velocity(y, tau, batch.cond)
            v_real = guided_velocity(scene.velocity("teacher"), y, tau, batch.cond, batch.null, self._config.cfg_scale)
            fake, real = y - like(tau, y) * v_fake, y - like(tau, y) * v_real
            gradient = dmd_gradient(x, fake, real)
            target = x.double() - gradient.double()
        # Of each sample: the root of a mean over all would depend on how the batch is split.
        raw = {"gradient_rms": gradient.square().flatten(1).mean(1).sqrt()}
        return Loss("dmd", (x.double() - target).square().mean(), raw)

    def _critic(self, scene: Scene) -> Iterator[Loss]:
        with torch.no_grad():
            made = self._roll(scene)
        x = made.x0
        noise = scene.draw.normal("critic noise", x.shape[1:])
        tau = draw_times(scene.draw, self._config.critic_times, "critic time")
        predicted = scene.velocity("critic").velocity(noised(x, noise, tau), tau, made.cond)
        yield Loss("critic", (predicted - (noise - x)).square().mean())

    def _roll(self, scene: Scene) -> Batch:
        """A rollout of the student from fresh noise, as its scores see it.

        Segments and window are the same in all processes. Frames that the scores see as clean context only are
        made without gradient: none would reach them.
        """
        draw, batch, chunking = scene.draw, scene.batch, scene.chunking
        times = self._times(draw).to(draw.device)
        start = draw.normal("start noise", batch.x0.shape[1:])
        window = Window(0, start.shape[1])
        if self._config.score == "forced":
            window = chunking.window(window.stop, draw.child("context"))
        x = rollout(
            self._sampler,
            scene.flow_map("student"),
            start,
            times,
            batch.cond,
            chunking,
            draw.child("rollout"),
            stop=window.stop,
            still=window.start,
            replay=self._config.replay,
        )
        made = Batch(x, batch.cond, batch.null)
        return chunking.whole(made) if self._config.score == "whole" else chunking.forced(made, window)

    def _times(self, draw: Draw) -> Tensor:
        shared = draw.shared("segments")
        steps = int(shared.choice(self._config.rollout_steps))
        return segments(steps, int(shared.integers(steps)), self._config.shift)
