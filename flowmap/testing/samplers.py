"""The laws of samplers."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from flowmap.interfaces import NoCond, Sampler
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.plugin.kinds import SamplerConfig
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field, marginal, network, points
from flowmap.testing.contract import (
    build_quietly,
    halves,
    own_randomness_only,
    require,
    require_equal,
    require_like,
    whole,
)
from flowmap.testing.examination import Subject
from flowmap.testing.wavy import Wavy, carried

LAWS = Laws("sampler")

_SHAPES = ((1, 2), (3, 2, 4, 4))
_TOLERANCE = 0.06  # of a mean or a spread over 4096 numbers and 64 steps; a wrong end is off by 0.2 at least


class SamplerSubject(Subject):
    """The sampler that `config` builds."""

    kind: ClassVar[str] = "sampler"
    config: SamplerConfig

    def found(self, name: str) -> bool:
        """See Subject.found."""
        return False

    @cached_property
    def sampler(self) -> Sampler:
        """What the configuration builds."""
        return build_quietly(self.config, self.config.build)

    def run(self, x: Tensor, times: Tensor, draw: Draw, field: Field | None = None) -> Tensor:
        """Where the exact network, or `field`, carries x."""
        return self.sampler.sample(network(self.config.network, field or Field()), x, times, NoCond(), draw)


@LAWS.proven(
    "Random numbers come from the sampler's draw alone, and building it draws none.",
    "Sampler.sample, SamplerConfig.build",
)
def draws_from_its_draw(subject: SamplerSubject) -> None:
    """No global generator."""
    draw = whole(5)
    assert subject.sampler
    with own_randomness_only(subject.who):
        _quietly(subject, draw)


def _quietly(subject: SamplerSubject, draw: Draw) -> None:
    try:
        subject.run(draw.normal("start", (1, 2)), grid(3), draw)
    except AssertionError:
        return  # for the next check


@LAWS.proven(
    "Networks are asked with times in [0, 1], t >= r, of float32 or wider, [B] or [B, F].",
    "Velocity.velocity, FlowMap.mean_velocity",
    after=("draws_from_its_draw",),
)
def asks_networks_rightly(subject: SamplerSubject) -> None:
    """The networks say so."""
    for shape in _SHAPES:
        draw = whole(5)
        try:
            subject.run(draw.normal("start", shape), grid(3), draw)
        except AssertionError as error:
            raise AssertionError(f"{subject.who}: {error}") from error


@LAWS.proven(
    "What is returned has the shape of x, in finite float32.", "Sampler.sample", after=("asks_networks_rightly",)
)
def keeps_the_shape(subject: SamplerSubject) -> None:
    """Points and videos."""
    for shape in _SHAPES:
        draw = whole(5)
        result = subject.run(draw.normal("start", shape), grid(3), draw)
        require_like(result, (5, *shape), f"what {subject.who} returns for x {[5, *shape]}")


@LAWS.proven("The x that is given stays as it is.", "Sampler.sample", after=("asks_networks_rightly",))
def leaves_x_alone(subject: SamplerSubject) -> None:
    """Not in place."""
    draw = whole(5)
    x = draw.normal("start", (1, 2))
    before = x.clone()
    with torch.no_grad():
        subject.run(x, grid(3), draw)
    require(torch.equal(x, before), f"{subject.who} must not change the x that it is given")


@LAWS.proven(
    "A step along the grid takes as many network calls as the configuration says.",
    "SamplerConfig.calls_per_step",
    after=("asks_networks_rightly",),
)
def makes_its_calls(subject: SamplerSubject) -> None:
    """On grids of several lengths."""
    each = subject.config.calls_per_step
    for steps in (1, 2, 5):
        field, draw = Field(), whole(3)
        subject.run(draw.normal("start", (1, 2)), grid(steps), draw, field)
        expected = steps * each
        require(
            field.calls == expected,
            f"{subject.who} says {each} network calls a step, so {steps} steps should take {expected}; it made "
            f"{field.calls}",
        )


@LAWS.proven(
    "Samples are carried from the distribution at `times[0]` to that at `times[-1]`, on any grid.",
    "Sampler.sample",
    equation="x_t = (1 - t) x0 + t e: arXiv 2210.02747",
    after=("keeps_the_shape",),
)
def carries_to_the_end(subject: SamplerSubject) -> None:
    """By the exact network of Gaussian data."""
    fine = torch.linspace(0, 1, 65)
    grids = [1 - fine, grid(64, 5.0), 0.6 - 0.4 * fine, (1 - fine) ** 1.5, 1 - 0.7 * fine]
    if subject.config.network == "flow_map":
        # The exact map makes no error, however large the step.
        grids += [torch.tensor(times) for times in ([1.0, 0.0], [1.0, 0.35, 0.3, 0.0], [0.9, 0.2])]
    for times in grids:
        first, last = float(times[0]), float(times[-1])
        draw = whole(2048)
        result = subject.run(points(draw, (1, 2), first), times, draw).detach()
        mean, std = (float(number) for number in marginal(times[-1]))
        off = max(abs(float(result.mean()) - mean), abs(float(result.std()) - std))
        require(
            off < _TOLERANCE,
            f"{subject.who} must carry samples from times[0] = {first:g} to times[-1] = {last:g} ({len(times) - 1} "
            f"steps): with the exact network their mean and spread should be {mean:.2f} and {std:.2f}, "
            f"and are {float(result.mean()):.2f} and {float(result.std()):.2f}",
        )


@LAWS.proven(
    "The network is asked where the grid says.", "Sampler.sample", after=("asks_networks_rightly", "carries_to_the_end")
)
def follows_the_grid(subject: SamplerSubject) -> None:
    """With other times between the same ends it is asked elsewhere."""
    draw, asked = whole(3), []
    for inner in ((0.8, 0.5, 0.3), (0.6, 0.4, 0.1)):
        field = Field()
        subject.run(draw.normal("start", (1, 2)), torch.tensor([1.0, *inner, 0.0]), draw, field)
        asked.append(torch.cat([times.flatten() for k, times in enumerate(field.asked) if k % 3]))
    same = asked[0].shape == asked[1].shape and torch.equal(*asked)
    require(
        not same,
        f"{subject.who} must follow the grid that it is given; with times 0.8, 0.5, 0.3 between 1 and 0 it asks the "
        "network at the same times as with 0.6, 0.4, 0.1",
    )


@LAWS.proven(
    "The error falls with the order that is declared.",
    "Sampler.order",
    after=("carries_to_the_end", "follows_the_grid", "leaves_x_alone"),
)
def converges_with_its_order(subject: SamplerSubject) -> None:
    """On a velocity without symmetries, in float64."""
    order = subject.sampler.order()
    if order is None:
        return
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1)
    exact = carried(x)
    errors = []
    for steps in (64, 128):
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        result = subject.sampler.sample(Wavy(), x, times, NoCond(), whole(len(x)))
        errors.append(float((result - exact).square().mean().sqrt()))
    observed = math.log2(errors[0] / errors[1]) if errors[1] else math.inf
    require(
        abs(observed - order) < 0.25,
        f"{subject.who} declares order {order}, but its error falls with order {observed:.2f}",
    )


@LAWS.proven(
    "Gradients flow through a sampler if they are enabled, and only then.",
    "Sampler.sample",
    after=("keeps_the_shape", "leaves_x_alone"),
)
def lets_gradients_through(subject: SamplerSubject) -> None:
    """To x and to the network."""
    field, draw = Field(), whole(3)
    x = draw.normal("start", (1, 2)).requires_grad_()
    result = subject.run(x, grid(2), draw, field)
    require(result.requires_grad, f"gradients must flow through {subject.who}; its result has none")
    result.sum().backward()
    for what, gradient in (("x", x.grad), ("the network", field.theta.grad)):
        good = gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
        require(good, f"gradients must flow through {subject.who} to {what}")
    with torch.no_grad():
        result = subject.run(x.detach(), grid(2), draw, field)
    require(not result.requires_grad, f"{subject.who} must not turn gradients on where they are off")


@LAWS.proven(
    "The same draw gives the same samples.",
    "Sampler.sample",
    after=("draws_from_its_draw", "keeps_the_shape", "leaves_x_alone"),
)
def repeats_itself(subject: SamplerSubject) -> None:
    """To the bit."""
    draw = whole(7)
    x = draw.normal("start", (1, 2))
    result, again = (subject.run(x.clone(), grid(4), draw) for _ in range(2))
    require(torch.equal(result, again), f"{subject.who} must return the same for the same draw")


@LAWS.proven(
    "What becomes of a sample depends on that sample alone, whoever shares its process.",
    "Sampler.sample",
    after=("repeats_itself",),
)
def samples_are_alone(subject: SamplerSubject) -> None:
    """In two parts."""
    draw = whole(7)
    x = draw.normal("start", (1, 2))
    result = subject.run(x, grid(4), draw)
    parts = [(p, subject.run(x[list(p.rows)], grid(4), p)) for p in halves(7)]
    require_equal(
        torch.cat([part for _, part in parts]),
        result[[row for p, _ in parts for row in p.rows]],
        f"what {subject.who} makes of a sample must not depend on which samples share its process",
        tolerance=1e-5,
    )
