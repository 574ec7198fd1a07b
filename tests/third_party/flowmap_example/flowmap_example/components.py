"""What the configurations of this package build."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flowmap.errors import FlowmapError
from flowmap.interfaces import (
    Backbone,
    Batch,
    Chunking,
    Cond,
    Data,
    Evidence,
    FlowMap,
    Loss,
    Metric,
    NoCond,
    Objective,
    OneChunk,
    Role,
    Sampler,
    Samples,
    Scene,
    Turn,
    Velocity,
)
from flowmap.maths.draw import Draw
from flowmap.maths.path import noised
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.video.pictures import scatter


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

    def forward(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        t, r = (time.reshape(len(x), -1)[:, :1] for time in (t, r))
        features = torch.cat([torch.ones_like(t), t, t * t, t - r], dim=1)
        return self.out(torch.tanh(self.into(x.flatten(1))) * self.times(features)).reshape(x.shape)


class BilinearVelocity(Velocity):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._module(x, t, t)


class BilinearFlowMap(FlowMap):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        return self._module(x, t, r)


class BilinearBackbone(Backbone):
    """Makes roles of either kind from the same weights: t - r is 0 for a velocity."""

    def __init__(self, width: int, spec: SampleSpec) -> None:
        self._width, self._spec = width, spec

    def role(self, name: str, kind: NetworkKind, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw.shared("initialisation").integers(2**62)))
            module = BilinearModule(self._width, math.prod(self._spec.shape))
        if weights is not None:
            try:
                module.load_state_dict(dict(weights))
            except RuntimeError as error:
                raise FlowmapError(f"role '{name}': these weights do not fit: {error}") from None
        network = BilinearFlowMap(module) if kind == "flow_map" else BilinearVelocity(module)
        return Role(name, network, module, dict(module.named_parameters()))

    def precompute(self, samples: Samples) -> Samples:
        return samples

    def encode(self, samples: Samples) -> Batch:
        return Batch(samples.x, NoCond(), NoCond())

    def decode(self, x: Tensor) -> Tensor:
        return x

    def condition(self, prompts: Any, count: int) -> tuple[Cond, Cond]:
        return NoCond(), NoCond()

    def latent_shape(self) -> tuple[int, ...]:
        return self._spec.shape

    def chunking(self) -> Chunking:
        return OneChunk()

    def export(self, role: Role, folder: Path, form: str, merged: bool, shift: float) -> str:
        raise FlowmapError("a bilinear network has no form that others load")


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
