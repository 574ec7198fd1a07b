"""Loss curves of millions of steps as the few points that a page can hold.

`smoothed` gives a running mean at some hundred steps, `extremes` the steps at which a curve is highest and lowest, so
that a single leap stays visible. flowmap.report.figures draws both; `shared` divides a page's points among its curves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

POINTS = 400
"""The most points a line of a loss figure has."""

_FEWEST = 24
_ON_A_PAGE = 120_000  # points of all loss figures of a page: about 2 MB


@dataclass(frozen=True)
class Trace:
    """A loss over steps; several `runs` (one a seed) of `(steps, values)`."""

    label: str
    colour: int
    runs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)


def shared(lines: int) -> int:
    """The most points of one curve, if a page has so many `lines` in its loss figures and is to stay about 2 MB."""
    return min(POINTS, max(_FEWEST, _ON_A_PAGE // max(1, lines)))


def smoothed(
    steps: NDArray[np.float64], values: NDArray[np.float64], most: int = POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `most` steps, and there a centred running mean over about a fortieth of all; NaN is left out.

    Ends use what there is.
    """
    # First the mean of each of so many stretches, then that of neighbouring ones: a mean of all at every step is slow.
    starts = np.unique(np.linspace(0, len(values), min(len(values), most), endpoint=False).astype(np.int64))
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts)
    count = np.add.reduceat(known.astype(float), starts)
    width = max(1, len(starts) // 40) | 1
    window = np.ones(width)
    total, count = (np.convolve(each, window)[width // 2 :][: len(starts)] for each in (total, count))
    ends = np.append(starts[1:], len(values)) - 1
    where = (steps[starts] + steps[ends]) / 2
    # To both ends of the figure.
    where[0], where[-1] = steps[0], steps[-1]
    return where, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def extremes(values: NDArray[np.float64], most: int = POINTS) -> NDArray[np.int64]:
    """At most `most` places of `values`: all, or the ends and where each stretch between is least and largest.

    So the one step at which a loss leaps up is drawn, however many others there are.
    """
    if len(values) <= most:
        return np.arange(len(values))
    chosen = [0, len(values) - 1]
    for stretch in np.array_split(np.arange(len(values)), most // 2 - 1):
        known = stretch[np.isfinite(values[stretch])]
        if len(known):
            chosen += [known[values[known].argmin()], known[values[known].argmax()]]
    return np.unique(np.array(chosen, dtype=np.int64))
