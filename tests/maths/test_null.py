"""Fused guidance leads away from the student's own null velocity: dropped conditions hold that in its place.

Two classes in one dimension, N(-1.5, 0.3^2) and N(1.5, 0.3^2). The null's velocity is that of their even mixture, in
closed form.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from flowmap_flow.configs import FlowMapConfig, FlowMatchingConfig
from flowmap_gaussian.configs import MixtureConfig
from flowmap_mlp.configs import MlpConfig
from torch import Tensor, nn

from flowmap.interfaces import Backbone, Role, as_flow_map
from flowmap.maths.path import noised
from flowmap.plugin import ObjectiveConfig, SampleSpec
from flowmap.recipe.tables import EmaConfig
from flowmap.training.ema import start_average, update_average

from .support import make_scene, mixture, rms, whole

pytestmark = pytest.mark.usefixtures("one_thread")

MEANS, STD = (-1.5, 1.5), 0.3
BOTH = MixtureConfig(means=MEANS, stds=(STD, STD), weights=(0.5, 0.5))
BATCH, STEPS = 128, 600


def backbone() -> Backbone:
    return MlpConfig(width=48, depth=2, frequency=10.0).build(SampleSpec((1, 1), classes=2))


def samples(count: int, step: int) -> tuple[Tensor, Tensor]:
    """Points `[count, 1, 1]` and their classes."""
    draw = whole(count, step, turn="data")
    labels = (2 * draw.uniform("labels")).long()
    return torch.tensor(MEANS)[labels][:, None, None] + STD * draw.normal("points", (1, 1)), labels


def train(objective: ObjectiveConfig, role: Role, lr: float) -> None:
    optimizer = torch.optim.AdamW(list(role.own.values()), lr=lr, weight_decay=0.0)
    (turn,) = objective.build().turns()
    start_average(role)
    for step in range(STEPS):
        x0, labels = samples(BATCH, step)
        cond, null = backbone().condition(labels, BATCH, labels.device)
        optimizer.zero_grad(set_to_none=True)
        for loss in turn.losses(make_scene([role], x0, whole(BATCH, step), cond, null)):
            loss.value.backward()
        nn.utils.clip_grad_norm_(list(role.own.values()), 1.0)
        optimizer.step()
        update_average(role, EmaConfig(decay=0.99), step)


@torch.no_grad()
def null_error(role: Role) -> float:
    """RMS distance of the null's velocity to the exact one on the path; the velocities' own size is 1.8."""
    x0, labels = samples(2000, 10**6)
    draw = whole(2000, 10**6)
    t, null = draw.uniform("t"), backbone().condition(labels, 2000, labels.device)[1]
    x = noised(x0, draw.normal("noise", (1, 1)), t)
    return rms(as_flow_map(role.network).velocity(x, t, null) - mixture(BOTH).velocity(x, t[:, None, None]))


@cache
def pretrained() -> dict[str, Tensor]:
    """Weights that know both classes and the null."""
    role = backbone().role("student", "flow_map", None, whole(1, turn="weights"))
    train(FlowMatchingConfig(drop_condition=0.2), role, lr=3e-3)
    return {key: value.detach() for key, value in role.own.items()}


def null_errors(drop: float) -> tuple[float, float]:
    """The null's error before forward training with guidance 3, and after it (moving average), with `drop`."""
    weights = {key: value.clone() for key, value in pretrained().items()}
    role = backbone().role("student", "flow_map", weights, whole(1, turn="weights"))
    before = null_error(role)
    # Rebalancing makes both noisier: 0.35 to 0.52 with drop, 0.36 to 1.7 without.
    train(FlowMapConfig(cfg_scale=3.0, drop_condition=drop, rebalance=False), role, lr=5e-4)
    with role.averaged():
        return before, null_error(role)


@pytest.mark.slow
def test_with_dropped_conditions_the_null_stays_where_it_was() -> None:
    """Measured with three sets of draws: from 0.29 to 0.25 - 0.26."""
    before, now = null_errors(drop=0.1)
    assert before < 0.5
    assert now < 1.1 * before


@pytest.mark.slow
def test_without_them_it_drifts() -> None:
    """Measured with three sets of draws: from 0.29 to 1.05 - 1.21; after 300 steps 0.50 - 0.59."""
    before, now = null_errors(drop=0.0)
    assert now > 2 * before
