"""Draws whose numbers are given: what a released trainer drew, an objective can be made to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.maths.draw import Draw


@dataclass(frozen=True)
class ScriptedDraw(Draw):
    """Numbers by `turn/name` (children included), the global order, and what shared generators give, in order.

    A number that nobody gave is an error, so that every draw of an objective is accounted for.
    """

    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    shares: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    places: Sequence[int] = ()

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        return self._given(name, shape)

    def normal(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        return self._given(name, shape)

    def shared(self, name: str) -> Any:
        return _Given(self.shares[self._address(name)])

    def order(self) -> NDArray[np.int64]:
        return np.array(self.places, dtype=np.int64)

    def _given(self, name: str, shape: Sequence[int]) -> Tensor:
        found = self.numbers[self._address(name)]
        assert found.shape == (self.count, *shape), name
        return found

    def _address(self, name: str) -> str:
        return f"{self.turn}/{name}".removeprefix("turn/")


class _Given:
    """Stands for a numpy generator; each call gives the next of `values`, whatever it is asked for."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = iter(values)

    def random(self) -> Any:
        return next(self._values)

    def integers(self, *bounds: int) -> Any:
        value = next(self._values)
        assert (0 if len(bounds) == 1 else bounds[0]) <= value < bounds[-1]
        return value

    def choice(self, allowed: Sequence[Any]) -> Any:
        value = next(self._values)
        assert value in allowed
        return value


def scripted(
    count: int,
    numbers: Mapping[str, Tensor],
    shares: Mapping[str, Sequence[Any]],
    places: Sequence[int] = (),
    step: int = 0,
) -> ScriptedDraw:
    """The draw of a process that holds all `count` samples of a batch, at this `step` of the stage.

    The direction along which the watchdog sees samples is no part of a loss, and no released trainer draws one.
    """
    shares = {"direction": (0,), **shares}
    everything = range(count)
    cpu = torch.device("cpu")
    return ScriptedDraw(0, "stage", step, "turn", count, everything, everything, cpu, numbers, shares, places)
