"""What a comparison has found, in plain words, and how sure it is. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from flowmap.comparison.efforts import in_calls, unlike
from flowmap.comparison.standings import Failure, Standings
from flowmap.statistics.intervals import MOST_SEEDS, Difference, Verdict
from flowmap.statistics.phrases import joined_by_and, phrase
from flowmap.statistics.spots import Row, Spot

_MOST_PAIRS = 6
_MOST_NAMED = 4


def sentences(standings: Standings) -> list[str]:
    """The findings in plain words, by the decisive metric, and how sure they are."""
    metric = standings.metric
    found = [
        sentence
        for n in standings.calls(metric)
        for each in (unlike, _choice)
        for sentence in each(standings, metric, n)
    ]
    told = (broken, contrasts, more_seeds, certainty, remarked)
    return [*found, *(sentence for each in told for sentence in each(standings, metric))]


def _choice(standings: Standings, metric: str, calls: int) -> Iterator[str]:
    """Which rows to use at so many calls."""
    spots = standings.at(metric, calls)
    if len(spots) < 2:
        return
    one = standings.rounds[metric, calls]
    best, ties = one.leaders()
    budget = f"At {in_calls(standings, calls)}"
    if not spots[best].finite:
        yield f"{budget} no contestant has a finite score."
        return
    told = f"{budget} {standings.label(best)} is best by {metric} ({spots[best].mean:.3g})"
    beyond = "beyond chance" if one.over == "seeds" else "beyond noise in this one training"
    strange = [row for row in ties if one.difference(row, best).count < 2]
    ties = [row for row in ties if row not in strange]
    if not any(spot.finite for row, spot in spots.items() if row != best):
        yield f"{told}: no other has finite scores."
    elif strange:
        words = [standings.label(row) for row in strange]
        has = "has" if len(words) == 1 else "have"
        told += f"; {joined_by_and(words)} {has} too few numbers in common with it to be compared"
        yield f"{told}; {_same(standings, spots, ties)}." if ties else f"{told}."
    elif not ties:
        yield f"{told}, {beyond}."
    elif len(ties) == len(spots) - 1:
        yield f"{told}, but no other differs from it {beyond}."
    else:
        yield f"{told}; {_same(standings, spots, ties)}."


def _same(standings: Standings, spots: Mapping[Row, Spot], ties: Sequence[Row]) -> str:
    """Who does not differ, with scores: a row that varies wildly between seeds does not differ from anything."""
    words = [f"{standings.label(row)} ({spots[row].mean:.2g})" for row in ties]
    return f"{joined_by_and(words)} {'does' if len(words) == 1 else 'do'} not differ from it"


def broken(standings: Standings, metric: str) -> Iterator[str]:
    """Rows with scores that are no numbers: where, and what they count as."""
    for row in standings.rows:
        spots = {n: standings.at(metric, n)[row] for n in standings.calls(metric) if row in standings.at(metric, n)}
        places = {n: spot for n, spot in spots.items() if not spot.finite}
        if places:
            seeds = sorted({s for spot in places.values() for s, mean in spot.means.items() if not math.isfinite(mean)})
            yield (
                f"{standings.label(row)} has scores that are no numbers (training seed{'' if len(seeds) == 1 else 's'} "
                f"{joined_by_and(list(map(str, seeds)))}; calls {joined_by_and(list(map(str, places)))}): it is ranked "
                "last there by definition, which is nothing that an interval says."
            )


def contrasts(standings: Standings, metric: str) -> Iterator[str]:
    """Pairs of rows over all numbers of calls: each against the reference, or all pairs if there are few."""
    for one, other in pairs(standings, metric):
        found = _over_calls(standings, metric, one, other)
        verdicts: dict[int, Verdict] = {calls: difference.verdict for calls, difference in found.items()}
        if verdicts:
            decided = any(found[calls].by_two_seeds and verdict != "same" for calls, verdict in verdicts.items())
            by = " (by two training seeds alone: a third may turn that)" if decided else ""
            yield f"{standings.label(one)} against {standings.label(other)}: {phrase(verdicts)}{by}."


def _over_calls(standings: Standings, metric: str, one: Row, other: Row) -> dict[int, Difference]:
    """`one` against `other`, where both have scores that are numbers, and two of them in common."""
    both = {n: standings.at(metric, n) for n in standings.calls(metric)}
    found = {
        n: standings.rounds[metric, n].difference(one, other)
        for n, at in both.items()
        if one in at and other in at and at[one].finite and at[other].finite
    }
    return {n: difference for n, difference in found.items() if difference.count > 1}


def more_seeds(standings: Standings, metric: str) -> Iterator[str]:
    """What would decide the contrasts that are undecided: those that the fewest more seeds would decide."""
    needs = [
        (found.more, f"{standings.label(one)} at {calls} call{'' if calls == 1 else 's'}")
        for one, other in pairs(standings, metric)
        for calls, found in _over_calls(standings, metric, one, other).items()
        if found.more is not None
    ]
    if not needs:
        return
    near = sorted(need for need in needs if need[0] <= MOST_SEEDS)
    against = f" against {standings.against}" if standings.against else ""
    told = [f"{label} ({more} more)" for more, label in near[:_MOST_NAMED]]
    if len(near) > _MOST_NAMED:
        told.append(f"{len(near) - _MOST_NAMED} others ({near[_MOST_NAMED][0]} to {near[-1][0]} more)")
    if len(needs) > len(near):
        told.append(f"{len(needs) - len(near)} would take over {MOST_SEEDS} more")
    yield (
        f"Undecided{against}, and how many more training seeds would decide if ratios and spreads are as they look: "
        f"{joined_by_and(told)}."
    )


def certainty(standings: Standings, metric: str) -> Iterator[str]:
    """How sure everything is that is said by `metric`, and for how many rows and pairs that is corrected."""
    rounds = [standings.rounds[metric, n] for n in standings.calls(metric) if len(standings.at(metric, n)) > 1]
    if not rounds:
        return
    sure = f"{100 * standings.confidence:g} %"
    rows = _least_to_most([found.count for found in rounds])
    count = _least_to_most([found.pairs for found in rounds])
    over = (
        "over training seeds"
        if any(found.over == "seeds" for found in rounds)
        else "over draws of noise of one training seed, which say nothing of another training"
    )
    if len(standings.seeds) == 2:
        over += " (two, which hardly tell how much a third would differ)"
    yield (
        f"Each number of calls by {metric}: {sure} that no difference named there is chance, corrected for all rows "
        f"(rows: {rows}; pairs: {count}), {over}; other numbers of calls and other metrics are corrected on their own. "
        "'Does not differ' says that no difference was seen, not that there is none."
    )


def remarked(standings: Standings, metric: str) -> Iterator[str]:
    """Why scores by `metric` are none to set beside published ones."""
    if remarks := standings.remarks.get(metric):
        yield f"{metric} compares with no published number: {'; '.join(remarks)}."


def _least_to_most(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def pairs(standings: Standings, metric: str) -> list[tuple[Row, Row]]:
    """The pairs that sentences are made of."""
    rows = [row for row in standings.rows if any(row in standings.at(metric, n) for n in standings.calls(metric))]
    if standings.against is not None:
        reference = next((row for row in rows if row.contestant == standings.against), None)
        return [(row, reference) for row in rows if row != reference] if reference else []
    every = [(b, a) for a, b in combinations(rows, 2)]
    return every if len(every) <= _MOST_PAIRS else []


def together(failures: Sequence[Failure]) -> list[tuple[str, str, str]]:
    """Contestant, seeds and message of each failure; those that differ in the seed only, and in paths, are one."""
    found: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        found.setdefault((failure.contestant, failure.message.replace(f"seed-{failure.seed}", "")), []).append(failure)
    return [
        (
            same[0].contestant,
            f"seed{'s' if len(same) > 1 else ''} {joined_by_and([str(f.seed) for f in same])}",
            same[0].message,
        )
        for same in found.values()
    ]
