"""Networks whose right answer is known: the exact flow of Gaussian data, with a few trainable errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from flowmap.interfaces import Cond, FlowMap, Role, Velocity
from flowmap.maths.draw import Draw
from flowmap.maths.path import like
from flowmap.schema.words import NetworkKind
from flowmap.testing.contract import require

MEAN, STD = 2.0, 0.5
"""Of the data, per element: far from the noise, so that a wrong end of a grid shows."""


@final
class Rows(Cond):
    """One number per sample `[B]`: a condition that knows how many samples it is for."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def take(self, index: Tensor) -> Rows:
        """The rows at `index`."""
        return Rows(self.rows[index])

    def join(self, other: Rows) -> Rows:
        """These rows, then the others."""
        return Rows(torch.cat([self.rows, other.rows]))


def marginal(t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation at `t` of the path from the data to noise."""
    return (1 - t) * MEAN, ((1 - t) ** 2 * STD**2 + t**2).sqrt()


def exact_map(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """X_{t->r}(x); times broadcast against `x`."""
    (mean_t, std_t), (mean_r, std_r) = marginal(t), marginal(r)
    return mean_r + std_r / std_t * (x - mean_t)


def exact_velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[e - x0 | x_t = x]; times broadcast against `x`."""
    mean, std = marginal(t)
    return (t - (1 - t) * STD**2) / std**2 * (x - mean) - MEAN


class Field(nn.Module):
    """The exact average velocity plus errors: `theta` . (1, x, t - r); exact at theta = 0.

    `calls` counts its calls, and `asked` are their x, t and r. With `slack` r may be as much above t: a difference in t
    over so much goes by r. `conditioned` is what it says besides to whoever asks with a condition, and with the null
    one; `differentiated` are the samples with each at which calls had gradients.
    """

    def __init__(self, theta: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))
        self.calls = 0
        self.asked: list[Tensor] = []
        self.slack = 0.0
        self.conditioned = (0.0, 0.0)
        self.differentiated = (0, 0)
        self.trained_at: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """u(x, t, r) for `x` `[B, F, ...]`. Raises AssertionError for arguments that break the conventions."""
        self.calls += 1
        if isinstance(cond, Rows) and torch.is_grad_enabled() and self.theta.requires_grad:
            nothing = int((cond.rows < 0).sum())
            asked, before = self.differentiated
            self.differentiated = (asked + len(cond.rows) - nothing, before + nothing)
        self.asked += [part.detach().clone() for part in (x, t, r)]
        for time in (t, r):
            good = time.shape in (x.shape[:1], x.shape[:2])
            require(
                good, f"a network was given times of shape {list(time.shape)} with x {list(x.shape)}; use [B] or [B, F]"
            )
            wide = time.dtype in (torch.float32, torch.float64)
            require(wide, f"a network was given times as {time.dtype}; times are float32 or wider")
            inside = bool(((time >= 0) & (time <= 1)).all())
            require(inside, "a network was given times outside [0, 1]")
        require(bool((t >= r - self.slack).all()), "a flow map was asked to go from t to r > t")
        rows = not isinstance(cond, Rows) or len(cond.rows) == len(x)
        require(rows, "a network was given a condition with another number of rows than samples")
        t, r = like(t, x), like(r, x)
        gap = t - r
        apart = gap.abs() > 1e-6
        jumped = (x - exact_map(x, t, r)) / torch.where(apart, gap, torch.ones_like(gap))
        u = torch.where(apart, jumped, exact_velocity(x, t))
        theta = self.theta.to(x.dtype)
        u = u + theta[0] + theta[1] * x + theta[2] * gap + self._besides(x, cond)
        if self.trained_at is not None and torch.is_grad_enabled() and self.theta.requires_grad:
            self._note(self.trained_at, u, t.detach().flatten(1)[:, 0], r.detach().flatten(1)[:, 0])
        return u

    def _note(self, found: list[tuple[Tensor, Tensor]], u: Tensor, t: Tensor, r: Tensor) -> None:
        def reached(gradient: Tensor) -> None:
            rows = gradient.flatten(1).any(dim=1)
            found.append((t[rows], r[rows]))

        if u.requires_grad:
            u.register_hook(reached)
        else:
            found.append((t, r))  # within forward mode u does not show that it has a gradient

    def _besides(self, x: Tensor, cond: Cond) -> Tensor:
        if not any(self.conditioned) or not isinstance(cond, Rows):
            return x.new_zeros(())
        asked, nothing = self.conditioned
        # Rows of the null condition are below 0.
        return like(torch.where(cond.rows < 0, nothing, asked).to(x), x)


@final
class ClosedVelocity(Velocity):
    """The field at r = t."""

    def __init__(self, module: Field) -> None:
        self._module = module

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """See Velocity."""
        result: Tensor = self._module(x, t, t, cond)
        return result


@final
class ClosedFlowMap(FlowMap):
    """The field at both times."""

    def __init__(self, module: Field) -> None:
        self._module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """See FlowMap."""
        result: Tensor = self._module(x, t, r, cond)
        return result


def network(kind: NetworkKind, module: Field) -> Velocity:
    """`module` as a network of `kind`."""
    return ClosedFlowMap(module) if kind == "flow_map" else ClosedVelocity(module)


def role(name: str, kind: NetworkKind, theta: Sequence[float]) -> Role:
    """A role with a field of its own."""
    module = Field(theta)
    return Role(name, network(kind, module), module, dict(module.named_parameters()))


def points(draw: Draw, shape: tuple[int, ...], t: float = 0.0) -> Tensor:
    """Samples `[count, *shape]` of the path's distribution at `t` (0: data)."""
    mean, std = marginal(torch.tensor(t))
    return mean + std * draw.normal("points", shape)
