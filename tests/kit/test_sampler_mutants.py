"""Samplers that ask for a sample under another's condition or times are caught by the check that is meant for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from flowmap.interfaces import Cond, NoCond, Sampler, Velocity, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.plugin import SamplerConfig

from .reference import broken

pytestmark = pytest.mark.usefixtures("one_thread")

Told = Callable[[int, Cond, int], Cond]
"""The condition with which a call is made: of the number of the call, the given one and the number of samples."""


def jumps(told: Told = lambda call, cond, count: cond, own: Callable[[Tensor], Tensor] = lambda t: t) -> SamplerConfig:
    """Jumps of a flow map, two each step, with the condition `told`; `own` makes of times what it goes by."""

    class Stub(Sampler):
        def order(self) -> int | None:
            return None

        def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
            call = 0
            for t, r in pairwise(own(times)):
                for begin, end in ((t, (t + r) / 2), ((t + r) / 2, r)):
                    now = told(call, cond, len(x))
                    x = as_flow_map(network).jump(x, begin.expand(len(x)), end.expand(len(x)), now)
                    call += 1
            return x

    class ReferenceConfig(SamplerConfig):
        """The reference."""

        type: Literal["reference"] = "reference"
        network: ClassVar[Any] = "flow_map"
        calls_per_step: ClassVar[int] = 2

        def build(self) -> Sampler:
            return Stub()

    return ReferenceConfig()


MUTANTS: dict[str, tuple[SamplerConfig, str, str]] = {
    "without condition": (jumps(lambda k, cond, count: NoCond()), "conditions_stay_with_samples", "6 of 6 calls"),
    "one call without": (
        jumps(lambda k, cond, count: NoCond() if k == 1 else cond),
        "conditions_stay_with_samples",
        "1 of 6 calls",
    ),
    "conditions flipped": (
        jumps(lambda k, cond, count: cond.take(torch.arange(count).flip(0))),
        "conditions_stay_with_samples",
        "4 of 5 samples",
    ),
    "conditions flipped in the last call": (
        jumps(lambda k, cond, count: cond.take(torch.arange(count).flip(0)) if k == 5 else cond),
        "conditions_stay_with_samples",
        "4 of 5 samples",
    ),
    "the first condition for all": (
        jumps(lambda k, cond, count: cond.take(torch.zeros(count, dtype=torch.int64))),
        "conditions_stay_with_samples",
        "4 of 5 samples",
    ),
    "too many conditions": (
        jumps(lambda k, cond, count: cond.join(cond)),
        "conditions_stay_with_samples",
        "'reference': a network was given a condition with another number of rows than samples",
    ),
    "times flipped": (
        jumps(own=lambda t: t.flip(1) if t.ndim == 2 else t),
        "samples_may_have_times",
        "carry each sample along its own",
    ),
    "the first times for all": (
        jumps(own=lambda t: t[:, :1] if t.ndim == 2 else t),
        "samples_may_have_times",
        "carry each sample along its own",
    ),
}


def test_the_reference_keeps_every_law() -> None:
    assert broken(jumps()) == {}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_its_check_alone(name: str) -> None:
    config, check, words = MUTANTS[name]
    found = broken(config)
    assert list(found) == [check]
    assert words in found[check]
