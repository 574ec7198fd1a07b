"""CausVid's initialisation (arXiv 2412.07772): regression on pairs of points of the teacher's own trajectories.

The teacher carries noise x_1 along its ODE to x_0 in `trajectory_steps` steps, and leaves points x_t at the times of
the grid of `steps` on the way. The student learns where they end:

    |D(x_t, t) - x_0|^2,  D(x, t) = X_{t->0}(x) = x - t u(x, t, 0),

with t drawn from that grid for each chunk (docs/derivations.md, eq. 17). A bidirectional teacher makes a causal
student's pairs: it sees all frames at once, the student the clean chunks before. The paper makes and stores its pairs
first; here each step makes its own, in `trajectory_steps` calls of the teacher, so that a few hundred steps are what
this is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Loss, Scene, StudentObjective
from flowmap.maths.devices import sent
from flowmap.maths.distances import squared
from flowmap.maths.path import grid
from flowmap.networks.guidance import Guided, GuidedCond
from flowmap_distribution.configs import TrajectoryConfig
from flowmap_distribution.rollouts import chunk_indices


@final
class Trajectory(StudentObjective):
    """See the module. Of the data it takes the conditions and the shape alone."""

    def __init__(self, config: TrajectoryConfig) -> None:
        self._config = config
        self._sampler = config.sampler.build()

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        draw, chunking, frames = scene.draw, scene.chunking, scene.batch.x0.shape[1]
        points = self.points(scene)
        window = chunking.window(frames, draw.child("context"))
        view = chunking.forced(replace(scene.batch, x0=points[-1]), window)
        index = chunk_indices(draw, chunking, window, frames, self._config.steps)
        t = sent(grid(self._config.steps, self._config.shift)[index], draw.device)
        x_t = picked(points[:-1, :, window.start : window.stop], sent(index, draw.device))
        predicted = scene.flow_map("student").jump(x_t, t, torch.zeros_like(t), view.cond)
        losses = squared(predicted, view.x0)
        yield Loss("trajectory", losses.mean())

    @torch.no_grad()
    def points(self, scene: Scene) -> Tensor:
        """The points `[steps + 1, B, F, ...]` of the teacher's trajectories at the times of the grid of `steps`."""
        config, draw = self._config, scene.draw
        whole: Batch = scene.chunking.whole(scene.batch)
        teacher, cond = Guided(scene.velocity("teacher"), config.cfg_scale), GuidedCond(whole.cond, whole.null)
        times = grid(config.trajectory_steps, config.shift, draw.device)
        size = config.trajectory_steps // config.steps
        points = [draw.normal("start noise", whole.x0.shape[1:])]
        for first in range(0, config.trajectory_steps, size):
            part = times[first : first + size + 1]
            points.append(self._sampler.sample(teacher, points[-1], part, cond, draw.child(f"trajectory-{first}")))
        return torch.stack(points)


def picked(points: Tensor, index: Tensor) -> Tensor:
    """Of `points` `[K, B, F, ...]` those with number `index` `[B]` or `[B, F]`: `[B, F, ...]`."""
    rows = torch.arange(index.shape[0], device=index.device)
    if index.ndim == 1:
        return points[index, rows]
    return points[index, rows[:, None], torch.arange(index.shape[1], device=index.device)]
