"""What a comparison has found so far, read from its folder: scores by row, costs, failures, findings. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from flowmap.schema.words import Better
from flowmap.statistics.effort import Effort
from flowmap.statistics.intervals import Round
from flowmap.statistics.spots import Row, Spot


@final
@dataclass(frozen=True)
class Failure:
    """A training that failed, and why; of what several share, `contestant` names the stage."""

    contestant: str
    seed: int
    message: str


@final
@dataclass(frozen=True)
class Spent:
    """What the own stages of a contestant cost, summed over them, for each training seed.

    `calls` are network-call equivalents in samples (see `equivalents`); `steps` are those of each stage.
    """

    contestant: str
    steps: Mapping[str, int]
    calls: Mapping[int, int]
    seconds: Mapping[int, float]
    peak_bytes: int


@final
@dataclass(frozen=True)
class Contestant:
    """Who is compared: its recipe as it was run, and its own stages (none: it is measured as it is)."""

    name: str
    recipe: dict[str, Any]
    own: tuple[str, ...]
    recomputes: bool

    @property
    def trained(self) -> list[dict[str, Any]]:
        """The tables of its own stages."""
        return [stage for stage in self.recipe["stages"] if stage["name"] in self.own]

    @property
    def measured(self) -> dict[str, Any]:
        """The table of the stage that is measured (the first, if there are several); of weights just their name."""
        name = self.recipe["evaluation"]["contests"][0]["stage"]
        return next((stage for stage in self.recipe["stages"] if stage["name"] == name), {"name": name})


@final
@dataclass(frozen=True)
class Standings:
    """Everything that the page shows.

    `spots` has the scores by metric and number of calls, `remarks` why those of a metric are none to set beside
    published ones, `efforts` what one sample of a row took at a number of calls, where that was counted.
    """

    folder: Path
    name: str
    about: str
    seeds: tuple[int, ...]
    metric: str
    against: str | None
    confidence: float
    budget: dict[str, Any] | None
    command: str
    text: str
    contestants: tuple[Contestant, ...]
    failures: tuple[Failure, ...]
    spots: Mapping[tuple[str, int], Mapping[Row, Spot]] = field(default_factory=dict)
    spent: tuple[Spent, ...] = ()
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    efforts: Mapping[tuple[Row, int], Effort] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """The metrics, the decisive one first."""
        names = dict.fromkeys(metric for metric, _ in self.spots)
        return [m for m in names if m == self.metric] + [m for m in names if m != self.metric]

    @property
    def rows(self) -> list[Row]:
        """Every row that was scored, in the order of the contestants."""
        order = [contestant.name for contestant in self.contestants]
        found = dict.fromkeys(row for spots in self.spots.values() for row in spots)
        return sorted(found, key=lambda row: order.index(row.contestant.split("/")[0]))

    def better(self, metric: str) -> Better:
        """Which scores by `metric` are the better ones."""
        return next((spot.better for (m, _), at in self.spots.items() if m == metric for spot in at.values()), "lower")

    def calls(self, metric: str) -> list[int]:
        """The numbers of calls at which anything was scored by `metric`."""
        return sorted(n for m, n in self.spots if m == metric)

    def at(self, metric: str, calls: int) -> Mapping[Row, Spot]:
        """The scores by `metric` at `calls`."""
        return self.spots.get((metric, calls), {})

    def in_chunks(self, calls: int) -> bool:
        """Whether any row makes its samples in several chunks, so that `calls` are those of each."""
        return any(n == calls and effort.chunks > 1 for (_, n), effort in self.efforts.items())

    @cached_property
    def rounds(self) -> Mapping[tuple[str, int], Round]:
        """What may be said of the scores, by metric and number of calls."""
        return {key: Round(spots, self.confidence) for key, spots in self.spots.items()}

    def label(self, row: Row) -> str:
        """The contestant, and its sampler where it has several."""
        several = len({other.sampler for other in self.rows if other.contestant == row.contestant}) > 1
        return f"{row.contestant} · {row.sampler}" if several else row.contestant

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Contestants and seeds that have no scores yet."""
        found = {
            (row.contestant.split("/")[0], seed)
            for at in self.spots.values()
            for row, s in at.items()
            for seed in s.values
        }
        return [(c.name, seed) for c in self.contestants for seed in self.seeds if (c.name, seed) not in found]
