"""What a sampler makes of its draw."""

from __future__ import annotations

import torch

from flowmap.maths.path import grid
from flowmap.testing.check import Laws
from flowmap.testing.contract import halves, require, require_equal, require_own_names, whole
from flowmap.testing.samplers.subject import SamplerSubject

LAWS = Laws("sampler")


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
    "What is drawn for two things has two names: under one name it is the same numbers.",
    "Draw",
    after=("draws_from_its_draw", "asks_networks_rightly"),
)
def names_are_drawn_once(subject: SamplerSubject) -> None:
    """Every step has names of its own."""
    draw = whole(3)
    require_own_names(subject.who, draw, lambda watched: subject.run(draw.normal("start", (1, 2)), grid(4), watched))


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
