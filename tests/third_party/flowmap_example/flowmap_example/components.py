"""What the configurations of this package build."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flowmap.interfaces import (
    Backbone,
    Cond,
    Data,
    Evidence,
    Loss,
    Metric,
    Objective,
    Sampler,
    Samples,
    Scene,
    Turn,
    Velocity,
)
from flowmap.maths.draw import Draw
from flowmap.maths.path import noised
from flowmap.plugin import SampleSpec
from flowmap.video.pictures import scatter
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import NoCodec


class Ring(Data):
    """An endless source: every draw is new."""

    def __init__(self, width: float) -> None:
        self._width = width

    def batch(self, draw: Draw) -> Samples:
        angle = 2 * math.pi * draw.uniform("angle", (1,))
        radius = 1 + self._width * draw.normal("radius", (1,))
        return Samples(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2))

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        # Whoever asks for everything gets as much as is useful.
        return self.batch(Draw.whole(0, "ring", 0, split, min(count, 4096)))

    def prompts(self, draw: Draw) -> Any:
        return None

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        return scatter(x.flatten(1).cpu().numpy())


class BilinearModule(nn.Module):
    """u(x, t, r) `[B, F, ...]`; with one time, r = t."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.into = nn.Linear(size, width)
        self.times = nn.Linear(4, width)
        self.out = nn.Linear(width, size)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        t, r = t[:, None], (t if r is None else r)[:, None]
        features = torch.cat([torch.ones_like(t), t, t * t, t - r], dim=1)
        return self.out(torch.tanh(self.into(x.flatten(1))) * self.times(features)).reshape(x.shape)


def bilinear(width: int, spec: SampleSpec) -> Backbone:
    """Roles of either kind from the same weights: t - r is 0 for a velocity."""
    size = math.prod(spec.shape)
    architecture = Architecture(lambda two_times, chosen: BilinearModule(width, size))
    return ModuleBackbone("bilinear", architecture, NoCodec(spec.shape))


class HuberMatching(Objective):
    def __init__(self, delta: float) -> None:
        self._delta = delta

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("student", self._losses),)

    def _losses(self, scene: Scene) -> Iterator[Loss]:
        batch = scene.forced()
        noise, t = scene.draw.normal("noise", batch.x0.shape[1:]), scene.draw.uniform("t")
        predicted = scene.velocity("student").velocity(noised(batch.x0, noise, t), t, batch.cond)
        yield Loss("huber", F.huber_loss(predicted, noise - batch.x0, delta=self._delta))


class Midpoint(Sampler):
    def order(self) -> int | None:
        return 2

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        for t, r in pairwise(times):
            half = x - 0.5 * (t - r) * network.velocity(x, t.expand(len(x)), cond)
            x = x - (t - r) * network.velocity(half, (0.5 * (t + r)).expand(len(x)), cond)
        return x


class RingWidth(Metric):
    def __init__(self, train: Tensor, held_out: Tensor) -> None:
        self._train, self._radii = train, held_out.flatten(1).norm(dim=1).sort().values

    def score(self, evidence: Evidence) -> float:
        return self._distance(evidence.samples)

    def floor(self, size: int) -> float:
        return self._distance(self._train[:size])

    def _distance(self, x: Tensor) -> float:
        """Wasserstein-1 between the distances to the origin."""
        levels = (torch.arange(256) + 0.5) / 256
        radii = x.flatten(1).norm(dim=1)
        return float((torch.quantile(radii, levels) - torch.quantile(self._radii, levels)).abs().mean())
