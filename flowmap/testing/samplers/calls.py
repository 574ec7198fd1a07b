"""What a sampler asks of networks, and what it returns."""

from __future__ import annotations

import torch

from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field
from flowmap.testing.contract import own_randomness_only, require, require_like, told_by_networks, whole
from flowmap.testing.samplers.subject import SHAPES, SamplerSubject

LAWS = Laws("sampler")


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
    for shape in SHAPES:
        draw = whole(5)
        with told_by_networks(subject.who):
            subject.run(draw.normal("start", shape), grid(3), draw)


@LAWS.proven(
    "What is returned has the shape of x, in finite float32.", "Sampler.sample", after=("asks_networks_rightly",)
)
def keeps_the_shape(subject: SamplerSubject) -> None:
    """Points and videos."""
    for shape in SHAPES:
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
