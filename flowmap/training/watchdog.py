"""Notice when a stage that trains a critic beside its student collapses.

A quantity is followed by two exponential means of its logarithm, a slow one (the reference) and a fast one. It alarms
where the fast one leaves the slow one behind; sample variances, which are told as shares of the data's, alarm where
they leave a range around 1 too, for a slow collapse takes its reference along.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, final

from flowmap.errors import FlowmapError
from flowmap.recipe.tables import WatchdogConfig
from flowmap.training.records import StepRecord

SAMPLES = ("samples", "samples_squared")
DATA = ("data", "data_squared")
"""What objectives call the first and second moments of samples and of the data, along one direction."""
_FAST = 10  # times that a quantity was seen
_ARMED = 30  # likewise, before which it raises no alarm


@final
@dataclass(frozen=True)
class Alarm:
    """What looks like a collapse, in words; `good` is a step well before the first sign of it, 0 if there is none."""

    why: str
    good: int


class Seen(Protocol):
    """A step, as far as a watchdog looks at it: one in training, or its line in `steps.jsonl`."""

    @property
    def step(self) -> int:
        """From 1 on."""

    @property
    def losses(self) -> Mapping[str, float]:
        """By branch."""

    @property
    def raw(self) -> Mapping[str, float]:
        """What objectives tell of themselves."""

    @property
    def norms(self) -> Mapping[str, float]:
        """Of gradients, by role."""


class CollapseError(FlowmapError):
    """A stage has collapsed, and the recipe does not want it to go on."""

    def __init__(self, step: int, alarm: Alarm) -> None:
        super().__init__(f"step {step}: {alarm.why}", code=1)
        self.step, self.alarm = step, alarm


@final
class _Series:
    """One quantity over the steps at which it was seen; an alarm is raised once, until the sign is gone."""

    def __init__(self, memory: int, rise: float, bounds: float | None) -> None:
        self._memory, self._rise, self._bounds = memory, rise, bounds
        self._slow = self._fast = 0.0
        self._seen = 0
        self._quiet: deque[int] = deque([0], maxlen=_FAST)
        self._raised = False

    def see(self, name: str, step: int, value: float) -> Alarm | None:
        """Add the `value` at `step`; it is above 0, or not a sign of anything."""
        if not value > 0:
            return None
        self._seen += 1
        x = math.log(value)
        self._slow += max(1 / self._seen, 1 / self._memory) * (x - self._slow)
        self._fast += max(1 / self._seen, 1 / _FAST) * (x - self._fast)
        why, share = self._sign(name)
        # Halfway to an alarm, in logarithms, it has begun; and what is wrong need not show at once.
        if share < 0.5:
            self._quiet.append(step)
            self._raised = False
        if share < 1 or self._seen < _ARMED or self._raised:
            return None
        self._raised = True
        return Alarm(why, self._quiet[0])

    def _sign(self, name: str) -> tuple[str, float]:
        """What is unusual, and how much: 1 is an alarm."""
        now = math.exp(self._fast)
        if self._bounds is None:
            times = math.exp(self._fast - self._slow)
            said = f"{name} is {now:.3g}, {times:.3g} times its running mean"
            return said, (self._fast - self._slow) / math.log(self._rise)
        said = f"{name} is {now:.3g} of the data's"
        return said, abs(self._fast) / math.log(self._bounds)


@final
class Watchdog:
    """Follows one stage, step by step."""

    def __init__(self, config: WatchdogConfig) -> None:
        self._config = config
        self._series: dict[str, _Series] = {}

    def see(self, seen: Seen) -> list[Alarm]:
        """The alarms of one step; steps come in their order."""
        found: list[Alarm] = []
        for name, value, bounds in quantities(seen, self._config.variance):
            if name not in self._series:
                self._series[name] = _Series(self._config.memory, self._config.rise, bounds)
            alarm = self._series[name].see(name, seen.step, value)
            if alarm is not None:
                found.append(alarm)
        return found


def quantities(seen: Seen, variance: float) -> Iterator[tuple[str, float, float | None]]:
    """What is followed: its name, its value, and the factor around 1 that it is to stay within, if it has one."""
    for branch, value in seen.losses.items():
        yield f"the loss '{branch}'", value, None
    for role, value in seen.norms.items():
        yield f"the gradient of the {role}", value, None
    for place in [name.rpartition("/")[0] for name in seen.raw if name.endswith(f"/{SAMPLES[1]}")]:
        ours, theirs = (_variance(seen.raw, place, names) for names in (SAMPLES, DATA))
        yield "the variance of samples", ours / theirs if theirs > 0 else 0.0, variance


def _variance(raw: Mapping[str, float], place: str, names: tuple[str, str]) -> float:
    first, second = (raw[f"{place}/{name}"] for name in names)
    return second - first**2


def watched(records: Iterable[StepRecord], watchdog: Watchdog, ends: bool) -> Iterator[StepRecord]:
    """The same `records`, with the watchdog's alarms among their doubts; raises CollapseError if an alarm `ends` it."""
    for record in records:
        alarms = watchdog.see(record)
        if alarms and ends:
            raise CollapseError(record.step, min(alarms, key=lambda alarm: alarm.good))
        doubts = (f"may be a collapse: {alarm.why}; step {alarm.good} was well" for alarm in alarms)
        yield replace(record, doubts=(*record.doubts, *doubts))
