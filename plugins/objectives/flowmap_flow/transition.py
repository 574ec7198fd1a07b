"""Transition models (TiM, arXiv 2509.04394).

MeanFlow's identity u = v - (t - r) du/dt by a central difference, so that fused attention and sharding stay possible,
with the weight (sigma_d + tan a(t) - tan a(r))^(-1/2), a the TrigFlow angle of a time: tan a(t) = t / (1 - t).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from flowmap.distances import squared
from flowmap.interfaces import Loss, Objective, Scene, Turn
from flowmap.pairs import draw_pairs, per_branch
from flowmap.points import along_path, on_path
from flowmap_flow.family_configs import TransitionConfig


def interval_weight(t: Tensor, r: Tensor, sigma_d: float) -> Tensor:
    """(sigma_d + tan a(t) - tan a(r))^(-1/2) for t >= r in [0, 1] (any shape): 0 at t = 1 > r, sigma_d^(-1/2) at r = t.

    tan a(t) - tan a(r) is written (t - r) / ((1 - t) (1 - r)): no difference of large numbers.
    """
    rise = torch.where(r < t, (t - r) / ((1 - t) * (1 - r)), 0.0)
    return (sigma_d + rise) ** -0.5


@final
class Transition(Objective):
    """weight(t, r) |u - sg[v - (t - r) du/dt]|^2 with v = e - x0, the mean over all elements.

    Published beside this configuration: half the samples have r = t and a tenth r = 0, steps of 0.005. The backbone
    embeds t and t - r.

    Left out of it are the weight 1 / (loss + 1e-5) of the released code (as of MeanFlow with p = 1: it moves the
    minimum where the velocity is the data's), its optional cosine loss and its alignment with features of another
    network. The released code takes the tangent of the time itself instead of the angle's, for rectified flow too.

    Pitfalls. The weight goes to zero towards t = 1: the jump from noise to data is learnt last. In bf16 a difference
    over 0.01 is noise.
    """

    def __init__(self, config: TransitionConfig) -> None:
        self._config = config

    def turns(self) -> tuple[Turn, ...]:
        """One update of the student."""
        return (Turn("student", self._losses),)

    def _losses(self, scene: Scene) -> Iterator[Loss]:
        config, student = self._config, scene.flow_map("student")
        pairs = draw_pairs(scene.draw, config.branches, config.times)
        at = on_path(scene, pairs, "data", config.cfg_scale, config.drop_condition)
        target = at.v - along_path(student, at, config.tangent)
        raw = squared(student.mean_velocity(at.x, at.t, at.r, at.cond), target)
        weight = interval_weight(at.t, at.r, config.sigma_d)
        yield Loss("transition", (weight * raw).mean(), per_branch(raw, pairs.branch))
