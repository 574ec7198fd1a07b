"""What one sample takes of each contestant, and where totals are unlike at one number of calls. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

from flowmap.comparison.standings import Standings
from flowmap.statistics.effort import Effort
from flowmap.statistics.phrases import joined_by_and
from flowmap.statistics.spots import Row, Spot

_MOST_NAMED = 12


@final
class Taking(NamedTuple):
    """What a sample of `row` at so many `calls` took, and its score by the metric that decides, if it has one."""

    row: Row
    calls: int
    effort: Effort
    spot: Spot | None


def takings(standings: Standings) -> list[Taking]:
    """All that was counted, by row and number of calls."""
    return [
        Taking(row, n, effort, standings.at(standings.metric, n).get(row))
        for row in standings.rows
        for (other, n), effort in sorted(standings.efforts.items(), key=lambda item: item[0][1])
        if other == row
    ]


def are_as_asked(standings: Standings) -> bool:
    """Whether every sample took as many passes as it was asked to; so far as they were counted."""
    return all(effort.passes == n for (_, n), effort in standings.efforts.items())


def in_calls(standings: Standings, calls: int) -> str:
    """So many `calls`, and of each chunk where some row makes its samples in several."""
    return f"{calls} call{'' if calls == 1 else 's'}{' of each chunk' if standings.in_chunks(calls) else ''}"


def unlike(standings: Standings, metric: str, calls: int) -> Iterator[str]:
    """Say that the rows that are ranked at so many `calls` took unlike passes, what each took, and how unlike."""
    known = {row: standings.efforts.get((row, calls)) for row in standings.at(metric, calls)}
    took = {row: effort.passes for row, effort in known.items() if effort is not None}
    if len(set(took.values())) < 2:
        return
    by_total: dict[int, list[str]] = {}
    for row, passes in sorted(took.items(), key=lambda item: item[1]):
        by_total.setdefault(passes, []).append(standings.label(row))
    told = [f"{passes} ({joined_by_and(names)})" for passes, names in by_total.items()]
    if len(told) > _MOST_NAMED:
        told = [told[0], f"{len(told) - 2} numbers between", told[-1]]
    least, most = min(by_total), max(by_total)
    unknown = [standings.label(row) for row, effort in known.items() if effort is None]
    rest = f"; those of {joined_by_and(unknown)} were not counted" if unknown else ""
    yield (
        f"At {in_calls(standings, calls)} totals differ, by {most / least:.3g} times at most. Network passes of one "
        f"sample: {joined_by_and(told)}{rest}. What is ranked there was asked for alike, and not spent alike."
    )
