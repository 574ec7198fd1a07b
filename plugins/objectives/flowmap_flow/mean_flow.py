"""MeanFlow (arXiv 2505.13447).

The average velocity of a trajectory satisfies u = v - (t - r) du/dt (equation 6), so u(x_t, t, r) is regressed on
sg[v - (t - r) du/dt] (equations 9 to 11), with v = e - x0 and the weight 1 / (|delta|^2 + c)^p (equation 22).
The derivation: (docs/derivations.md, eqs. 10 and 12).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.distances import adaptive, elements, squared
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.networks.points import along_path, on_path
from flowmap_flow.derivative_configs import MeanFlowConfig


@final
@dataclass(frozen=True)
class MeanFlow(StudentObjective):
    """weight |u - sg[v - (t - r) du/dt]|^2, the mean over all elements.

    Published beside this configuration (ImageNet 256): Adam 1e-4, betas (0.9, 0.95), EMA 0.9999, batch 256. There
    |delta|^2 is a sum over the elements of a sample; here the weighted loss is that divided by their number, which
    AdamW does not see but a clip of the gradient's norm does.

    Pitfalls. With the velocity of the data, delta holds the noise of the sample, and a weight that depends on it moves
    the minimum away from the mean: negligible in many dimensions, where |delta| hardly varies, but in a few the map is
    wrong, so set power = 0 there. With a teacher's velocity there is no such noise and power = 1 helps. Guidance is
    learnt in one call a sample only because u(x, t, t, null) is in the target: conditions must be dropped. Forward mode
    needs an attention that has a forward derivative, which the plain one has and fused ones have not.
    """

    config: MeanFlowConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, student = self.config, scene.flow_map("student")
        pairs = draw_pairs(scene.draw, config.branches, config.times)
        drop = config.drop_condition if config.velocity == "data" else 0.0
        at = on_path(scene, pairs, config.velocity, config.cfg_scale, drop)
        target = at.v - along_path(student, at, config.tangent)
        raw = squared(student.mean_velocity(at.x, at.t, at.r, at.cond), target)
        weight = adaptive(raw, elements(at.x), config.power, config.constant)
        yield Loss("mean_flow", (weight * raw).mean(), per_branch(raw, pairs))
