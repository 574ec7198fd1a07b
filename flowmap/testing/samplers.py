"""The contract of samplers."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap, NoCond, Sampler
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid, like
from flowmap.plugin.kinds import SamplerConfig
from flowmap.testing.closed_form import Field, marginal, network, points
from flowmap.testing.contract import (
    build_quietly,
    check_config,
    halves,
    own_randomness_only,
    require,
    require_equal,
    require_like,
    whole,
)

_SHAPES = ((1, 2), (3, 2, 4, 4))
_TOLERANCE = 0.06  # of a mean or a spread over 4096 numbers and 64 steps; a wrong end is off by 0.2 at least


def check_sampler(config: SamplerConfig) -> None:
    """Check the sampler that `config` builds; raises AssertionError with what is broken.

    It keeps shape and float32, calls the network `calls_per_step` times a step, carries the distribution at
    `times[0]` to that at `times[-1]` on any grid, converges with its declared order, lets gradients through,
    and its result depends on the draw and on each sample alone.
    """
    check_config(config)
    sampler = build_quietly(config, config.build)
    for check in (_check_shapes, _check_calls, _check_ends, _check_order, _check_gradients, _check_draw):
        with own_randomness_only(f"'{config.type}'"):
            check(config, sampler)


def _run(
    config: SamplerConfig, sampler: Sampler, x: Tensor, times: Tensor, draw: Draw, field: Field | None = None
) -> Tensor:
    return sampler.sample(network(config.network, field or Field()), x, times, NoCond(), draw)


def _check_shapes(config: SamplerConfig, sampler: Sampler) -> None:
    for shape in _SHAPES:
        draw = whole(5)
        x = draw.normal("start", shape)
        before = x.clone()
        result = _run(config, sampler, x, grid(3), draw)
        require_like(result, (5, *shape), f"what '{config.type}' returns for x {[5, *shape]}")
        require(torch.equal(x, before), f"'{config.type}' must not change the x that it is given")


def _check_calls(config: SamplerConfig, sampler: Sampler) -> None:
    for steps in (1, 2, 5):
        field, draw = Field(), whole(3)
        _run(config, sampler, draw.normal("start", (1, 2)), grid(steps), draw, field)
        expected = steps * config.calls_per_step
        require(
            field.calls == expected,
            f"'{config.type}' says {config.calls_per_step} network calls a step, "
            f"so {steps} steps should take {expected}; it made {field.calls}",
        )


def _check_ends(config: SamplerConfig, sampler: Sampler) -> None:
    fine = torch.linspace(0, 1, 65)
    grids = [1 - fine, grid(64, 5.0), 0.6 - 0.4 * fine, (1 - fine) ** 1.5, 1 - 0.7 * fine]
    if config.network == "flow_map":
        # The exact map makes no error, however large the step.
        grids += [torch.tensor(times) for times in ([1.0, 0.0], [1.0, 0.35, 0.3, 0.0], [0.9, 0.2])]
    for times in grids:
        first, last = float(times[0]), float(times[-1])
        draw = whole(2048)
        result = _run(config, sampler, points(draw, (1, 2), first), times, draw).detach()
        mean, std = (float(number) for number in marginal(times[-1]))
        off = max(abs(float(result.mean()) - mean), abs(float(result.std()) - std))
        require(
            off < _TOLERANCE,
            f"'{config.type}' must carry samples from times[0] = {first:g} to times[-1] = {last:g} ({len(times) - 1} "
            f"steps): with the exact network their mean and spread should be {mean:.2f} and {std:.2f}, "
            f"and are {float(result.mean()):.2f} and {float(result.std()):.2f}",
        )


def _check_order(config: SamplerConfig, sampler: Sampler) -> None:
    order = sampler.order()
    if order is None:
        return
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1)
    exact = _reference(x)
    errors = []
    for steps in (64, 128):
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        result = sampler.sample(_Wavy(), x, times, NoCond(), whole(len(x)))
        errors.append(float((result - exact).square().mean().sqrt()))
    observed = math.log2(errors[0] / errors[1]) if errors[1] else math.inf
    require(
        abs(observed - order) < 0.25,
        f"'{config.type}' declares order {order}, but its error falls with order {observed:.2f}",
    )


@final
class _Wavy(FlowMap):
    """A velocity without symmetries: on the flow of a Gaussian some methods do better than in general."""

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """The velocity at t."""
        t = like(t, x)
        return torch.sin(2 * x + t) * torch.cos(3 * t) + t * x


def _reference(x: Tensor, steps: int = 512) -> Tensor:
    """Where the wavy velocity carries `x` from t = 1 to 0, by the classical Runge-Kutta method."""
    field, h = _Wavy(), 1 / steps

    def v(x: Tensor, t: float) -> Tensor:
        return field.velocity(x, torch.full((len(x),), t, dtype=x.dtype), NoCond())

    for k in range(steps):
        t = 1 - k * h
        a = v(x, t)
        b = v(x - 0.5 * h * a, t - 0.5 * h)
        c = v(x - 0.5 * h * b, t - 0.5 * h)
        d = v(x - h * c, t - h)
        x = x - h / 6 * (a + 2 * b + 2 * c + d)
    return x


def _check_gradients(config: SamplerConfig, sampler: Sampler) -> None:
    field, draw = Field(), whole(3)
    x = draw.normal("start", (1, 2)).requires_grad_()
    result = _run(config, sampler, x, grid(2), draw, field)
    require(result.requires_grad, f"gradients must flow through '{config.type}'; its result has none")
    result.sum().backward()
    for what, gradient in (("x", x.grad), ("the network", field.theta.grad)):
        good = gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
        require(good, f"gradients must flow through '{config.type}' to {what}")
    with torch.no_grad():
        result = _run(config, sampler, x.detach(), grid(2), draw, field)
    require(not result.requires_grad, f"'{config.type}' must not turn gradients on where they are off")


def _check_draw(config: SamplerConfig, sampler: Sampler) -> None:
    draw = whole(7)
    x = draw.normal("start", (1, 2))
    result = _run(config, sampler, x, grid(4), draw)
    again = _run(config, sampler, x, grid(4), draw)
    require(torch.equal(result, again), f"'{config.type}' must return the same for the same draw")
    parts = [(p, _run(config, sampler, x[list(p.rows)], grid(4), p)) for p in halves(7)]
    require_equal(
        torch.cat([part for _, part in parts]),
        result[[row for p, _ in parts for row in p.rows]],
        f"what '{config.type}' makes of a sample must not depend on which samples share its process",
        tolerance=1e-5,
    )
