"""Points on the path from data to noise, each with the velocity that carries it on and the times asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from flowmap.guidance import guided_velocity
from flowmap.interfaces import Cond, Scene
from flowmap.pairs import Pairs
from flowmap.path import noised

Source = Literal["data", "teacher", "self"]
"""Where the velocity at a point comes from: the sample (e - x0), a teacher, or the student itself at r = t."""


@final
@dataclass(frozen=True)
class Points:
    """Points `x` `[B, F, ...]` at times `t`, what velocity `v` they move with, and the times `r <= t` to map to.

    `v` has no gradient. `cond` and `null` are the conditions of the samples, `pairs` says which branch each is of.
    """

    x: Tensor
    v: Tensor
    pairs: Pairs
    cond: Cond
    null: Cond

    @property
    def t(self) -> Tensor:
        """Where the points are, `[B]`."""
        return self.pairs.t

    @property
    def r(self) -> Tensor:
        """Where they are mapped to, `[B]`."""
        return self.pairs.r

    def take(self, rows: Tensor) -> Points:
        """The points `rows` `[K]` (int64)."""
        pairs = Pairs(self.pairs.t[rows], self.pairs.r[rows], self.pairs.branch[rows])
        return Points(self.x[rows], self.v[rows], pairs, self.cond.take(rows), self.null.take(rows))


def on_path(scene: Scene, pairs: Pairs, source: Source, cfg_scale: float = 1.0) -> Points:
    """The scene's samples, noised to the times of `pairs`, with the velocity that `source` gives each.

    Guidance `cfg_scale` w means null + w (cond - null). With `data`, whose velocity knows no null, it is
    w (e - x0) + (1 - w) u(x, t, t, null) (MeanFlow, arXiv 2505.13447, section 4.2). With `self` the velocity of points
    with r = t is that of the data, since those rows are what teaches the student its velocity; no guidance.
    """
    batch = scene.forced()
    noise = scene.draw.normal("noise", batch.x0.shape[1:])
    x = noised(batch.x0, noise, pairs.t)
    with torch.no_grad():
        v = noise - batch.x0
        if source == "teacher":
            v = guided_velocity(scene.velocity("teacher"), x, pairs.t, batch.cond, batch.null, cfg_scale)
        elif source == "data" and cfg_scale != 1:
            v = cfg_scale * v + (1 - cfg_scale) * scene.flow_map("student").velocity(x, pairs.t, batch.null)
        elif source == "self":
            rows = pairs.moving()
            if len(rows):
                own = scene.flow_map("student").velocity(x[rows], pairs.t[rows], batch.cond.take(rows))
                # A row for company may have r = t: it keeps the velocity of the data.
                moves = (pairs.r < pairs.t)[rows]
                v[rows[moves]] = own[moves].to(v)
    return Points(x, v, pairs, batch.cond, batch.null)
