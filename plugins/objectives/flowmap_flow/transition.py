"""Transition models (TiM, arXiv 2509.04394).

MeanFlow's identity u = v - (t - r) du/dt by a central difference, so that fused attention and sharding stay possible.
Each sample's loss L is the mean square of what is missing, and with `cosine` the mean of 1 - cos(u, target), the angle
taken over channels, besides. It weighs

    (sigma_d + tan t - tan r)^(-1/2) / (L + constant)^power,    and 1 / (L + constant)^power where r = t

(docs/derivations.md, eqs. 10, 13 and 38).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.distances import squared
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.networks.points import along_path, on_path, velocity_at
from flowmap_flow.derivative_configs import TransitionConfig

_CHANNELS = 2


def interval_weight(t: Tensor, r: Tensor, sigma_d: float, interval: Literal["time", "angle"] = "time") -> Tensor:
    """(sigma_d + tan t - tan r)^(-1/2) for t >= r in [0, 1] (any shape), and 1 at r = t.

    With `interval` "angle" the tangents are those of the TrigFlow angles, tan a(t) = t / (1 - t): 0 at t = 1 > r.
    """
    if interval == "angle":
        # No difference of large numbers.
        rise = torch.where(r < t, (t - r) / ((1 - t) * (1 - r)), 0.0)
    else:
        rise = torch.tan(t) - torch.tan(r)
    return torch.where(r < t, (sigma_d + rise) ** -0.5, 1.0)


@final
@dataclass(frozen=True)
class Transition(StudentObjective):
    """weight(t, r) L(u, sg[v - (t - r) du/dt]) with v = e - x0, see the module; the mean over samples.

    As released (github.com/WZDTHU/TiM, commit b431859): half the samples have r = t and a tenth r = 0, steps of 0.005,
    tangents of the time itself, power 1 and constant 1e-5, the cosine loss on, logit-normal times (-0.4, 1) for
    ImageNet and (0, 1.6) for text. With guidance the derivative goes along e - x0, as released (`direction`
    "data"), though the trajectories of the guided velocity go another way. The backbone embeds t and t - r.

    Left out is the alignment with features of another network.

    Pitfalls. As with MeanFlow's p = 1, `power` 1 moves the minimum where the velocity is the data's. With `interval`
    "angle" the weight goes to zero towards t = 1: the jump from noise to data is learnt last. In bf16 a difference over
    0.01 is noise. Of samples with one channel the cosine is a sign, which has no gradient: switch it off.
    """

    config: TransitionConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config, student = self.config, scene.flow_map("student")
        pairs = draw_pairs(scene.draw, config.branches, config.times)
        at = on_path(scene, pairs, "data", drop=config.drop_condition)
        guided = replace(at, v=velocity_at(scene, at, at.x, at.t, "data", config.cfg_scale))
        moving = guided if config.direction == "guided" else at
        target = guided.v - along_path(student, moving, config.tangent)
        u = student.mean_velocity(at.x, at.t, at.r, at.cond)
        losses = raw = squared(u, target)
        if config.cosine:
            losses = losses + (1 - cosine_similarity(u, target.to(u.dtype), dim=_CHANNELS)).flatten(1).mean(1)
        weight = interval_weight(at.t, at.r, config.sigma_d, config.interval)
        weight = weight / (losses.detach() + config.constant) ** config.power
        yield Loss("transition", (weight * losses).mean(), per_branch(raw, pairs))
