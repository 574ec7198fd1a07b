"""Points on the path from data to noise, as objectives of flow maps train on them.

`on_path` noises the scene's samples to their times t and says, of each point, with what velocity it moves (that of the
sample, a teacher's or the student's own: `velocity_at`) and to what time r <= t it is to be mapped. `along_path` gives
the derivative of the student's average velocity along that movement.

A row with r < t is said to move; at r = t nothing does, and most of what is computed of moving rows is not needed. All
processes must make the same network calls, though, so that one without such a row adds a *spare row*: any row, whose
result is thrown away (`Pairs.moving`, `Pairs.resting`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Cond, FlowMap, Scene
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import Pairs
from flowmap.maths.path import like, noised
from flowmap.networks.guidance import guided_velocity
from flowmap.networks.tangent import tangent
from flowmap.schema.settings import TangentConfig

Source = Literal["data", "teacher", "self"]
"""Where the velocity at a point comes from: the sample (e - x0), a teacher, or the student itself at r = t."""


@final
@dataclass(frozen=True)
class Points:
    """Points `x` `[B, F, ...]` at times `t`, what velocity `v` they move with, and the times `r <= t` to map to.

    `v` has no gradient. `cond` and `null` are the conditions of the samples, `pairs` says which branch each is of, and
    `dropped` `[B]` of which samples the condition has become null.
    """

    x: Tensor
    v: Tensor
    pairs: Pairs
    cond: Cond
    null: Cond
    dropped: Tensor

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
        conds = self.cond.take(rows), self.null.take(rows)
        return Points(self.x[rows], self.v[rows], pairs, *conds, self.dropped[rows])

    def replaced(self, rows: Tensor, values: Tensor) -> Tensor:
        """`v` with `values` `[K, F, ...]` in the place of those of `rows` `[K]` that move.

        A spare row among them, which has r = t, keeps its velocity.
        """
        # No row is picked by a mask: how many there are is known to the program before its accelerator comes so far.
        moves = like(self.r < self.t, self.v)[rows]
        return self.v.index_copy(0, rows, torch.where(moves, values.to(self.v), self.v[rows]))


def drop_condition(draw: Draw, batch: Batch, probability: float) -> tuple[Batch, Tensor]:
    """The batch with each sample's condition replaced by its null with `probability`, and of which it was, `[B]`."""
    rows = torch.arange(draw.count, device=batch.x0.device)
    if not probability:
        return batch, torch.zeros_like(rows, dtype=torch.bool)
    dropped = draw.uniform("drop") < probability
    # Row i of the joined conditions is sample i's own, row count + i its null.
    return replace(batch, cond=batch.cond.join(batch.null).take(rows + draw.count * dropped)), dropped


def on_path(
    scene: Scene,
    pairs: Pairs,
    source: Source,
    cfg_scale: float = 1.0,
    drop: float = 0.0,
    rows: Tensor | None = None,
) -> Points:
    """The scene's samples, noised to the times of `pairs`, with the velocity that `source` gives each (velocity_at).

    Conditions become null with probability `drop`. Only the velocity of `rows` `[K]` is asked for, if they are given;
    the others keep that of the data.
    """
    batch, dropped = drop_condition(scene.draw, scene.forced(), drop)
    noise = scene.draw.normal("noise", batch.x0.shape[1:])
    x = noised(batch.x0, noise, pairs.t)
    at = Points(x, noise - batch.x0, pairs, batch.cond, batch.null, dropped)
    return replace(at, v=velocity_at(scene, at, x, pairs.t, source, cfg_scale, rows))


@torch.no_grad()
def velocity_at(
    scene: Scene,
    at: Points,
    x: Tensor,
    t: Tensor,
    source: Source,
    cfg_scale: float = 1.0,
    rows: Tensor | None = None,
) -> Tensor:
    """What `source` says is the velocity at `x` `[B, F, ...]` and `t` `[B]` for the samples of `at`; no gradient.

    `at.v` is the velocity of the data, which rows that are not among `rows` keep. Guidance `cfg_scale` w means
    null + w (cond - null). With `data`, whose velocity knows no null, it is w (e - x0) + (1 - w) u(x, t, t, null), and
    none where the condition is dropped (MeanFlow, arXiv 2505.13447, section 4.2). With `self` the velocity of points
    with r = t is that of the data, since those rows are what teaches the student its velocity; no guidance.
    """
    if source == "self":
        rows = at.pairs.moving()
        if not len(rows):
            return at.v
        own = scene.flow_map("student").velocity(x[rows], t[rows], at.cond.take(rows))
        return at.replaced(rows, own)
    if source == "data" and cfg_scale == 1:
        return at.v
    part = at if rows is None else at.take(rows)
    x, t = (x, t) if rows is None else (x[rows], t[rows])
    if source == "teacher":
        v = guided_velocity(scene.velocity("teacher"), x, t, part.cond, part.null, cfg_scale)
    else:
        guided = cfg_scale * part.v + (1 - cfg_scale) * scene.flow_map("student").velocity(x, t, part.null)
        v = torch.where(like(part.dropped, x), part.v, guided)
    return v if rows is None else at.v.index_copy(0, rows, v.to(at.v))


def along_path(student: FlowMap, at: Points, config: TangentConfig) -> Tensor:
    """(t - r) du/dt along the path `[B, F, ...]`, without gradient: by how much v exceeds the average velocity.

    At r = t it is zero, and nothing is computed.
    """
    rows = at.pairs.moving()
    part = at.take(rows)
    du_dt = tangent(student, part.x, part.t, part.r, part.v, part.cond, config)
    return torch.zeros_like(at.x).index_copy(0, rows, (like(part.t - part.r, at.x) * du_dt).to(at.x))
