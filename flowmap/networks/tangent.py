"""Derivatives of the average velocity u(x, t, r) in time.

Along a trajectory, with r held fixed: d/dt u(x_t, t, r) = (v . grad_x) u + du/dt, where v = dx/dt. It enters the
MeanFlow identity u = v - (t - r) du/dt (arXiv 2505.13447; by central difference: AnyFlow, arXiv 2605.13724, and TiM,
2509.04394; docs/derivations.md, eqs. 10 and 13) and is taken without gradient.

In r, with x and t held fixed: d/dr X_{t->r}(x) = u - (t - r) du/dr, the speed with which the point that x is mapped to
moves (arXiv 2406.07507). A loss on it needs its gradient.

A difference is only as good as its length (`flowmap.recipe.step_length`). `observed` shows every one that is taken to
whoever wants to know how good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap
from flowmap.maths.path import like
from flowmap.schema.settings import TangentConfig


@final
@dataclass(frozen=True)
class Question:
    """What u(x, t, r, c) is: for `x` `[K, F, ...]` and `t >= r`, both `[K]` or `[K, F]`. K may be 0."""

    x: Tensor
    t: Tensor
    r: Tensor
    cond: Cond


def ask(network: FlowMap, questions: Sequence[Question], together: bool) -> list[Tensor]:
    """The answer to each question, with the shape of its x: all from one call if `together`, or from one call each.

    Questions without rows cost nothing.
    """
    real = [q for q in questions if len(q.x)]
    if together and len(real) > 1:
        x, t, r = (torch.cat(parts) for parts in zip(*((q.x, q.t, q.r) for q in real), strict=True))
        cond = reduce(lambda joined, other: joined.join(other), (q.cond for q in real))
        answers = iter(network.mean_velocity(x, t, r, cond).split([len(q.x) for q in real]))
    else:
        answers = iter([network.mean_velocity(q.x, q.t, q.r, q.cond) for q in real])
    return [next(answers) if len(q.x) else torch.empty_like(q.x) for q in questions]


@final
@dataclass(frozen=True)
class Difference:
    """A derivative `value` `[K, F, ...]` that was taken as a difference, as `config` says. No gradient; K may be 0.

    `again(step)` takes the same derivative over the half width `step`, in as many calls.
    """

    value: Tensor
    config: TangentConfig
    again: Callable[[float], Tensor]


_observer: ContextVar[Callable[[Difference], None] | None] = ContextVar("observer of differences", default=None)


@contextmanager
def observed(observer: Callable[[Difference], None]) -> Iterator[None]:
    """Within this context `observer` is shown each derivative that this module takes as a difference, right after it.

    It is called without gradient, while the network still has the weights and modes that it was asked in, and in all
    processes alike: those without rows of their own show what they computed of a spare row (`Pairs.moving`).
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@torch.no_grad()
def tangent(
    network: FlowMap,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    v: Tensor,
    cond: Cond,
    config: TangentConfig,
    end: float = 1.0,
) -> Tensor:
    """du/dt at `x` `[K, F, ...]` moving with velocity `v`, at times `t >= r` `[K]` or `[K, F]`.

    Returns the shape of `x`, without gradient. The difference is one-sided where a step would leave [0, `end`].
    """
    return tangent_and(network, Question(x, t, r, cond), v, config, end=end)[0]


@torch.no_grad()
def tangent_and(
    network: FlowMap, at: Question, v: Tensor, config: TangentConfig, *others: Question, end: float = 1.0
) -> tuple[Tensor, ...]:
    """As `tangent`, and then the answers to `others`, which go with the differences if these go in one call."""
    if config.method == "jvp":
        return _along(network, at, v), *ask(network, others, together=False)

    def span(step: float) -> _Span:
        late, early = (at.t + step).clamp(max=end), (at.t - step).clamp(min=0.0)
        late_side, early_side = (
            Question(at.x + like(time - at.t, at.x) * v, time, at.r, at.cond) for time in (late, early)
        )
        return _Span(late_side, early_side, late - early)

    now = span(config.step)
    u_late, u_early, *answers = ask(network, [now.late, now.early, *others], together=config.batched)
    du_dt = now.slope(u_late, u_early)
    _show(network, du_dt, config, span)
    return du_dt, *answers


def value_and_slope(network: FlowMap, at: Question, rows: Tensor, config: TangentConfig) -> tuple[Tensor, Tensor]:
    """u(x, t, r) `[B, F, ...]` and, of `rows` `[K]`, the derivative du/dr `[K, F, ...]`; both with gradient.

    The difference is one-sided where a step would leave [0, t]; it needs t > 0. By forward mode both come from one call
    of all rows; by difference u is asked for as it is, and both sides of `rows` beside it. In bf16 a difference is
    noise, as in `tangent`; but unlike there the noise has a gradient.
    """
    if config.method == "jvp" and len(rows):
        u, slope = _forward_mode(
            lambda r: network.mean_velocity(at.x, at.t, r, at.cond), (at.r,), (torch.ones_like(at.r),)
        )
        return u, slope[rows]
    x, t, r, cond = at.x[rows], at.t[rows], at.r[rows], at.cond.take(rows)

    def span(step: float) -> _Span:
        late, early = torch.minimum(r + step, t), (r - step).clamp(min=0.0)
        return _Span(Question(x, t, late, cond), Question(x, t, early, cond), late - early)

    now = span(config.step)
    u, u_late, u_early = ask(network, [at, now.late, now.early], together=config.batched)
    du_dr = now.slope(u_late, u_early)
    _show(network, du_dr, config, span)
    return u, du_dr


@final
@dataclass(frozen=True)
class _Span:
    """The two ends of a difference, and the time between them, `[K]` or `[K, F]`."""

    late: Question
    early: Question
    length: Tensor

    def slope(self, u_late: Tensor, u_early: Tensor) -> Tensor:
        return (u_late - u_early) / like(self.length, u_late)


def _show(network: FlowMap, value: Tensor, config: TangentConfig, span: Callable[[float], _Span]) -> None:
    """Show the difference over `span(config.step)` to the observer, if there is one."""
    observer = _observer.get()
    if observer is None or config.method == "jvp":
        return

    def again(step: float) -> Tensor:
        other = span(step)
        return other.slope(*ask(network, [other.late, other.early], together=config.batched))

    with torch.no_grad():
        observer(Difference(value.detach(), config, again))


def _along(network: FlowMap, at: Question, v: Tensor) -> Tensor:
    if not len(at.x):
        return torch.empty_like(at.x)

    def u(x: Tensor, t: Tensor) -> Tensor:
        return network.mean_velocity(x, t, at.r, at.cond)

    return _forward_mode(u, (at.x, at.t), (v, torch.ones_like(at.t)))[1]


def _forward_mode(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The function's value, and its derivative in `direction`."""
    # Fused attention has no forward derivative; the plain one has.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        both = torch.func.jvp(function, at, direction)
    return both[0], both[1]
