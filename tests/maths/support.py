"""What the tests of the mathematics share: small exact roles, a scene, and networks that keep a diary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from flowmap_gaussian.configs import GaussianConfig, MixtureConfig
from flowmap_gaussian.exact import Mixture
from torch import Tensor, nn

from flowmap.interfaces import (
    Batch,
    Cond,
    FlowMap,
    NoCond,
    OneChunk,
    Role,
    Scene,
    Velocity,
    World,
    as_flow_map,
)
from flowmap.maths.draw import Draw
from flowmap.maths.path import like
from flowmap.plugin import NetworkKind, SampleSpec

GAUSSIAN = MixtureConfig(means=(0.5,), stds=(0.4,), weights=(1.0,))
MIXTURE = MixtureConfig(means=(-1.2, 0.3, 1.5), stds=(0.3, 0.5, 0.25), weights=(0.3, 0.2, 0.5))


class Rows(Cond):
    """One number per sample `[B, 1]`."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def take(self, index: Tensor) -> Rows:
        return Rows(self.values[index])

    def join(self, other: Rows) -> Rows:
        return Rows(torch.cat([self.values, other.values]))


class Analytic(nn.Module):
    """The network of the golden files: tanh(x W cos 2t + sin 3r + c) + b t r for x `[B, F, C, H, W]`."""

    def __init__(self, W: Tensor, b: Tensor) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(W.clone()), nn.Parameter(b.clone())

    def forward(self, x: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
        t, r, c = like(t, x), like(r, x), like(c[:, 0], x)
        mixed = torch.einsum("bfchw,cd->bfdhw", x, self.W)
        return torch.tanh(mixed * torch.cos(2 * t) + torch.sin(3 * r) + c) + self.b * t * r


class AnalyticFlowMap(FlowMap):
    def __init__(self, module: Analytic) -> None:
        self.module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        assert isinstance(cond, Rows)
        result: Tensor = self.module(x, t, r, cond.values)
        return result


def analytic_role(name: str, W: Tensor, b: Tensor) -> Role:
    module = Analytic(W, b)
    return Role(name, AnalyticFlowMap(module), module, dict(module.named_parameters()))


def mixture(config: MixtureConfig = MIXTURE) -> Mixture:
    return Mixture(config)


def exact_role(
    name: str,
    kind: NetworkKind = "flow_map",
    config: MixtureConfig = MIXTURE,
    theta: Sequence[float] | Tensor = (),
) -> Role:
    """The exact field in float64, displaced by `theta`."""
    backbone = GaussianConfig(mixture=config).build(SampleSpec((1, 1), 0))
    role = backbone.role(name, kind, None, Draw.whole(0, "base", 0, "", 1))
    role.module.double()
    if len(theta):
        with torch.no_grad():
            role.own["theta"].copy_(torch.as_tensor(theta))
    return role


def make_scene(
    roles: Sequence[Role], x0: Tensor, draw: Draw, cond: Cond | None = None, null: Cond | None = None
) -> Scene:
    batch = Batch(x0, cond or NoCond(), null or NoCond())
    return Scene({role.name: role for role in roles}, batch, draw, OneChunk(), World())


def whole(total: int, step: int = 0, seed: int = 0, turn: str = "turn") -> Draw:
    return Draw.whole(seed, "stage", step, turn, total)


def data(draw: Draw, config: MixtureConfig = MIXTURE, shape: tuple[int, ...] = (1, 1)) -> Tensor:
    """Samples of the mixture `[count, *shape]` in float64."""
    means, stds = torch.tensor(config.means).double(), torch.tensor(config.stds).double()
    edges = torch.tensor(config.weights).double().cumsum(0)[:-1]
    component = torch.bucketize(draw.uniform("component", shape).double(), edges)
    return means[component] + stds[component] * draw.normal("points", shape).double()


@dataclass
class Diary:
    """What a network was asked: times, condition and gradient mode of each call."""

    t: list[Tensor] = field(default_factory=list)
    r: list[Tensor] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    conds: list[Any] = field(default_factory=list)
    grad: list[bool] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self.t)

    def note(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> None:
        self.x.append(x.detach())
        self.t.append(t)
        self.r.append(r)
        self.conds.append(cond)
        self.grad.append(torch.is_grad_enabled())


class NotedFlowMap(FlowMap):
    def __init__(self, network: Velocity, diary: Diary) -> None:
        self.network, self.diary = as_flow_map(network), diary

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        self.diary.note(x, t, r, cond)
        return self.network.mean_velocity(x, t, r, cond)


class NotedVelocity(Velocity):
    def __init__(self, network: Velocity, diary: Diary) -> None:
        self.network, self.diary = network, diary

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.diary.note(x, t, t, cond)
        return self.network.velocity(x, t, cond)


def noted(role: Role) -> tuple[Role, Diary]:
    """The same role with a network that keeps a diary."""
    diary = Diary()
    wrap = NotedFlowMap if isinstance(role.network, FlowMap) else NotedVelocity
    twin = Role(role.name, wrap(role.network, diary), role.module, role.own)
    twin.average = role.average
    return twin, diary


def rms(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())
