"""Flow matching (arXiv 2210.02747; AnyFlow's stage 1; docs/derivations.md, eqs. 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.path import draw_times, noised
from flowmap.networks.points import drop_condition
from flowmap_flow.configs import FlowMatchingConfig


@final
@dataclass(frozen=True)
class FlowMatching(StudentObjective):
    """E |u(x_t, t) - (e - x0)|^2, the mean over all elements."""

    config: FlowMatchingConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        draw = scene.draw
        batch = scene.seen(self.config.view)
        noise = draw.normal("noise", batch.x0.shape[1:])
        t = draw_times(draw, self.config.times)
        batch, _ = drop_condition(draw, batch, self.config.drop_condition)
        predicted = scene.velocity("student").velocity(noised(batch.x0, noise, t), t, batch.cond)
        yield Loss("flow_matching", (predicted - (noise - batch.x0)).square().mean())
