"""Where a sampler carries samples, and along which times."""

from __future__ import annotations

import math

import torch

from flowmap.interfaces import NoCond
from flowmap.maths.path import grid
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field, marginal, points
from flowmap.testing.contract import require, require_equal, whole
from flowmap.testing.samplers.subject import SHAPES, SamplerSubject
from flowmap.testing.wavy import Wavy, carried

LAWS = Laws("sampler")

_TOLERANCE = 0.06  # of a mean or a spread over 4096 numbers and 64 steps; a wrong end is off by 0.2 at least


@LAWS.proven(
    "Samples are carried from the distribution at `times[0]` to that at `times[-1]`, on any grid.",
    "Sampler.sample",
    equation="x_t = (1 - t) x0 + t e: arXiv 2210.02747",
    after=("keeps_the_shape", "names_are_drawn_once"),
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
    "A sampler of flow maps takes times [N + 1, B] of each sample's own, unless its configuration says `own_times`.",
    "Sampler.sample, SamplerConfig.own_times",
    after=("samples_are_alone", "follows_the_grid"),
)
def samples_may_have_times(subject: SamplerSubject) -> None:
    """Each sample becomes what it becomes where all have its times."""
    if subject.config.network != "flow_map" or subject.config.own_times() is not None:
        return
    times = torch.tensor([[1.0, 1.0, 0.9], [0.7, 0.4, 0.8], [0.2, 0.1, 0.3], [0.0, 0.0, 0.1]])
    for shape in SHAPES:
        draw = whole(times.shape[1])
        x = draw.normal("start", shape)
        among = subject.run(x.clone(), times, draw)
        alone = [subject.run(x.clone(), own, draw)[row] for row, own in enumerate(times.T)]
        require_equal(
            among,
            torch.stack(alone),
            f"{subject.who} must take times [N + 1, B], and carry each sample along its own as if they were those of "
            "all",
            tolerance=1e-5,
        )
