"""Measure, now and then, how far the differences that a stage takes are off the network's own derivatives.

A difference D(h) over the half width h is off by c h^2 where the network is smooth on that scale, and then
D(h) - D(h/2) is 3/4 of that. So 4/3 |D(h) - D(h/2)| / |D(h/2)| is the relative error of D(h), as long as it is small.
If h is too long for that it is of order 1, as the error is; where rounding outweighs all else it is up to 3 times too
large, for the rounding of D(h/2) is twice that of D(h); of one-sided differences, which are of first order, it is 2/3
of what it should be. Past LIMIT more lengths are tried, once, to learn which side is wrong.

The calls are no part of the training: the ledger does not count them, so budgets and plans stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from torch import Tensor

from flowmap.networks.tangent import Difference, observed
from flowmap.recipe.derivatives import TangentPlace
from flowmap.recipe.step_length import LIMIT, NAME, percent
from flowmap.training.ledger import Ledger
from flowmap.training.processes import Processes

_EARLY, _EVERY = (1, 10), 100
_CLEAR = 0.03  # an error at which a length is believed at once
_HALVINGS = 8
_FACTOR = 4 / 3
_LONGEST = 0.1  # as TangentConfig allows


def due(update: int) -> bool:
    """Whether differences are measured in the `update`-th of a turn, from 1: the first, the tenth, every hundredth."""
    return update in _EARLY or update % _EVERY == 0


@final
@dataclass(frozen=True)
class _Length:
    """A derivative taken over the half width `step`, and the estimate of its relative error."""

    step: float
    value: Tensor
    error: float


@final
class TangentError:
    """Measures the differences of one stage; all processes together.

    `places` are the derivatives of its objective's configuration and `within` is what the names of their fields begin
    with, to say which field a doubt is about; `mixed` says whether the network computes in bfloat16.
    """

    def __init__(
        self, places: Sequence[TangentPlace], within: str, mixed: bool, processes: Processes, ledger: Ledger
    ) -> None:
        self._places, self._within, self._mixed = places, within, mixed
        self._processes, self._ledger = processes, ledger
        self._off = self._size = 0.0
        self._doubts: list[str] = []
        self._known = LIMIT

    @contextmanager
    def measuring(self, update: int) -> Iterator[None]:
        """Within this context differences are measured, if they are `due` in this `update` of a turn."""
        if due(update):
            with observed(self._measure):
                yield
        else:
            yield

    def take(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """What was measured since the last `take`: the relative error by its NAME, if there is one, and the doubts."""
        found = {NAME: _estimate(self._off, self._size)} if self._size else {}
        doubts = tuple(self._doubts)
        self._off = self._size = 0.0
        self._doubts.clear()
        return found, doubts

    def _measure(self, difference: Difference) -> None:
        with self._ledger.uncounted():
            half = difference.again(difference.config.step / 2)
            off, size = self._squares(difference.value - half, half)
            # What does not change has no relative error, and what is not finite the loss will say.
            if not (0 < size < math.inf and off < math.inf):
                return
            self._off, self._size = self._off + off, self._size + size
            error = _estimate(off, size)
            if error > self._known:
                self._known = 2 * error  # said once, and again if it is twice as bad
                self._doubts += self._doubt(difference, half, error)

    def _squares(self, *values: Tensor) -> list[float]:
        """The sums of squares of `values` over the rows of all processes."""
        return self._processes.total([float(value.double().square().sum()) for value in values])

    def _off_by(self, value: Tensor, reference: Tensor) -> float:
        off, size = self._squares(value - reference, reference)
        return math.sqrt(off / size) if size else math.inf

    def _lengths(self, difference: Difference, half: Tensor) -> Iterator[_Length]:
        """Other lengths, the shorter ones first; each is compared with the one of half its length."""
        step, last = difference.config.step / 2, half
        for _ in range(_HALVINGS):
            shorter = difference.again(step / 2)
            yield _Length(step, last, _FACTOR * self._off_by(last, shorter))
            step, last = step / 2, shorter
        step, last = difference.config.step, difference.value
        while 2 * step <= _LONGEST:
            longer = difference.again(2 * step)
            yield _Length(2 * step, longer, _FACTOR * self._off_by(longer, last))
            step, last = 2 * step, longer

    def _doubt(self, difference: Difference, half: Tensor, error: float) -> list[str]:
        """What is wrong with the length of `difference`; nothing, if another that is right says much the same."""
        step, best = difference.config.step, None
        shortest = longest = step
        for other in self._lengths(difference, half):
            shortest, longest = min(shortest, other.step), max(longest, other.step)
            best = other if best is None or other.error < best.error else best
            if best.error <= _CLEAR:
                break
        assert best is not None
        place = next((place for place in self._places if place.config == difference.config), None)
        field = ".".join(map(str, (*place.field, "step") if place else ("tangent", "step")))
        field = f"{self._within}.{field}"
        if best.error > LIMIT:
            jvp = f"{field.removesuffix('step')}method = 'jvp'" if place is None or place.jvp else ""
            ways = [way for way in (jvp, "compute.precision = 'no'" if self._mixed else "") if way]
            advice = f"; the network's own takes {' or '.join(ways)} (`flowmap docs derivatives`)" if ways else ""
            return [
                f"a derivative by a difference over {field} = {step:g} is about {percent(error)} off, and of all steps "
                f"from {shortest:.2g} to {longest:.2g} the best, {best.step:.2g}, is {percent(best.error)} off{advice}"
            ]
        off = self._off_by(difference.value, best.value)
        if off <= LIMIT:
            return []
        found = (
            f"a derivative by a difference over {field} = {step:g} is {percent(off)} off the one over {best.step:.2g} "
            f"(which is {percent(best.error)} off)"
        )
        if best.step > step:
            return [f"{found}: shorter differences are mostly rounding; set {field} = {best.step:.2g}"]
        return [
            f"{found}: the network changes faster than the step, and learns from its derivative averaged over "
            f"{2 * step:g} of time; {best.step:.2g} is its own, which may train worse (`flowmap docs "
            "derivatives`)"
        ]


def _estimate(off: float, size: float) -> float:
    """The relative error of a difference, from the squares of its deviation from the one of half its length."""
    return _FACTOR * math.sqrt(off / size)
