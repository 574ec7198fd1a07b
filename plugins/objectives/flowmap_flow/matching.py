"""Flow matching (arXiv 2210.02747; AnyFlow's stage 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from flowmap.interfaces import Loss, Objective, Scene, Turn
from flowmap.path import draw_times, noised
from flowmap_flow import FlowMatchingConfig


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
        batch = scene.forced()
        noise = draw.normal("noise", batch.x0.shape[1:])
        t = draw_times(draw, self._config.times)
        cond = batch.cond
        if self._config.drop_condition:
            rows = torch.arange(draw.count, device=batch.x0.device)
            dropped = draw.uniform("drop") < self._config.drop_condition
            # Row i of the joined conditions is sample i's own, row count + i its null.
            cond = cond.join(batch.null).take(rows + draw.count * dropped)
        predicted = scene.velocity("student").velocity(noised(batch.x0, noise, t), t, cond)
        yield Loss("flow_matching", (predicted - (noise - batch.x0)).square().mean())
