"""Eulerian distillation: flow map matching (arXiv 2406.07507), self-distilled (2505.18825), AYF's EMD (2506.14603).

A trajectory's points are all mapped to the same one: d/dt X_{t->r}(x_t) = v - u - (t - r) du/dt = 0, where v = dx/dt
(docs/derivations.md, eq. 10). Minus that residual is g = u - v + (t - r) du/dt, and u is regressed on sg[u - g].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.distances import normalized, squared
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.networks.points import along_path, on_path
from flowmap_flow.derivative_configs import EulerianConfig


@final
@dataclass(frozen=True)
class Eulerian(StudentObjective):
    """|u - sg[u - g]|^2, the mean over all elements, with g = u - v + k (t - r) du/dt.

    Without more this is MeanFlow's loss without weights: the target is v - (t - r) du/dt. With `warmup` N, k grows from
    0 to 1 in the first N steps (arXiv 2410.11081, section 4.2). With `normalize` g is divided by |g| + 0.1, |g| over
    all elements of a sample: the whole residual, in units of velocity and k included, of all samples, those with r = t
    too. The raw losses are of g before that. AYF's residual is that of the map, d/dt X = -g, and so is its gradient,
    through X = x - (t - r) u: it is this one's times (t - r), which a weight of the published loss takes up.

    Pitfalls. The stop-gradient is part of it: the gradient of |g|^2 itself would pass through du/dt, and so through a
    second derivative of the network. With `velocity = "self"` v is the student's own u(x, t, t) where r < t, and the
    data's at r = t, the only rows that teach it anything new. The derivative grows with the network's sensitivity to
    t: prefer low frequencies of the time embedding, and clip the gradient.
    """

    config: EulerianConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, student = self.config, scene.flow_map("student")
        pairs = draw_pairs(scene.draw, config.branches, config.times)
        at = on_path(scene, pairs, config.velocity, config.cfg_scale)
        k = min(1.0, scene.draw.step / config.warmup) if config.warmup else 1.0
        u = student.mean_velocity(at.x, at.t, at.r, at.cond)
        g = u.detach() - at.v + k * along_path(student, at, config.tangent)
        pull = normalized(g, config.constant) if config.normalize else g
        loss = squared(u, u.detach() - pull).mean()
        yield Loss("eulerian", loss, per_branch(g.square().flatten(1).mean(1), pairs))
