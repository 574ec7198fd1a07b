"""Flow matching (arXiv 2210.02747; AnyFlow's stage 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from flowmap.interfaces import Loss, Objective, Scene, Turn
from flowmap.maths.path import draw_times, noised
from flowmap.networks.points import drop_condition
from flowmap_flow.configs import FlowMatchingConfig


@final
class FlowMatching(Objective):
    """E |u(x_t, t) - (e - x0)|^2, the mean over all elements."""

    def __init__(self, config: FlowMatchingConfig) -> None:
        self._config = config

    def turns(self) -> tuple[Turn, ...]:
        """One update of the student."""
        return (Turn("student", self._losses),)

    def _losses(self, scene: Scene) -> Iterator[Loss]:
        draw = scene.draw
        batch = scene.seen(self._config.view)
        noise = draw.normal("noise", batch.x0.shape[1:])
        t = draw_times(draw, self._config.times)
        batch, _ = drop_condition(draw, batch, self._config.drop_condition)
        predicted = scene.velocity("student").velocity(noised(batch.x0, noise, t), t, batch.cond)
        yield Loss("flow_matching", (predicted - (noise - batch.x0)).square().mean())
