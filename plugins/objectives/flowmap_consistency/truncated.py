"""Truncated consistency models (TCM, arXiv 2410.14895): all capacity for the times from the boundary t' up.

The consistency function is the student's at t >= t' and a frozen first stage's below. Discrete consistency is
trained at times from t' up, x_s judged by whichever holds at s, and on a share of the samples at t = t' itself, where
that is always the first stage: without it D = constant would be a solution.

    loss = mean over t > t' of l(t) + w_b mean over t = t' of l(t'),    l(t) = d(D(x_t, t), sg D(x_s, s)) / (t - s)

(docs/derivations.md, eqs. 17 and 18).
As published (CIFAR-10): t' = 1 in noise levels, which is 0.5 here; a quarter of the samples at the boundary, w_b = 0.1;
the student starts as the first stage's model and goes on with its schedule; RAdam, lr 5e-5, batch 1024. Published times
have a logarithm of Student's t-distribution, which is not offered; here they are those of the first stage, above t'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import final

import numpy as np
import torch
from torch import Tensor

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.devices import rows_where, sent
from flowmap.maths.draw import Draw
from flowmap.maths.path import like, noised
from flowmap.networks.points import drop_condition
from flowmap_consistency.configs import TcmConfig
from flowmap_consistency.steps import Step, distances, draw_start, joined, step_back, to_data, weights


def at_boundary(draw: Draw, share: float) -> Tensor:
    """Which samples `[B]` (bool, on the CPU) stand at the boundary: `share` of the global batch, to one sample."""
    places = (draw.order()[np.asarray(draw.rows, dtype=np.int64)] + draw.shared("boundary").random()) / draw.total
    return torch.from_numpy(places < share)


@final
class TruncatedConsistency(StudentObjective):
    """See the module.

    Pitfall: the student is not trained below t'. A sampling grid with times below t' uses what the student was
    initialised with, as far as training has left that alone: sample in one step, or with times from t' up and 0.
    """

    def __init__(self, config: TcmConfig, step: Step) -> None:
        self._config, self._step = config, step

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, draw = self._config, scene.draw
        batch, _ = drop_condition(draw, scene.forced(), config.drop_condition)
        role, student, first = scene.roles["student"], scene.flow_map("student"), scene.flow_map("first")
        known = at_boundary(draw, config.boundary_share)
        edge = sent(known, draw.device)
        t = torch.where(edge, config.boundary, draw_start(draw, config, config.boundary))
        s = step_back(t, config, draw.step)
        noise = draw.normal("noise", batch.x0.shape[1:])
        x_t = noised(batch.x0, noise, t)
        with torch.no_grad():
            v = self._step.velocity(scene, batch, noise, x_t, t, s)
            x_s = x_t - like(t - s, x_t) * v
            # Every sample is shown to both, so that all processes make the same calls.
            frozen = to_data(first, batch, x_s, s)
            with role.averaged() if config.target == "average" else nullcontext():
                own = to_data(student, batch, x_s, s)
            below = like(s < config.boundary, x_t)
            target = joined(v, torch.where(below, frozen, own), t, s)
        raw = distances(config, to_data(student, batch, x_t, t), target, t)
        # So that the mean over all samples is the mean over each kind.
        share, edge_weight = config.boundary_share, config.boundary_weight
        weight = weights(config, t, s) * torch.where(edge, edge_weight / share, 1 / (1 - share))
        interior, boundary = (raw.detach()[rows_where(rows, draw.device)] for rows in (~known, known))
        yield Loss(
            "tcm",
            (weight * raw).mean(),
            {"interior": interior, "boundary": boundary},
        )
