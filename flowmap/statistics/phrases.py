"""Verdicts over numbers of calls, as a sentence says them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowmap.statistics.intervals import Verdict


def phrase(verdicts: Mapping[int, Verdict]) -> str:
    """Verdicts by number of calls as words: "does not differ at 1 call; worse from 16 on"."""
    groups: list[tuple[Verdict, list[int]]] = []
    for calls in sorted(verdicts):
        if groups and groups[-1][0] == verdicts[calls]:
            groups[-1][1].append(calls)
        else:
            groups.append((verdicts[calls], [calls]))
    words = {"better": "better", "worse": "worse", "same": "does not differ"}
    if len(groups) == 1:
        return f"{words[groups[0][0]]} at any number of calls"
    last = len(groups) - 1
    return "; ".join(
        f"{words[verdict]} {_span(calls, number == last)}" for number, (verdict, calls) in enumerate(groups)
    )


def _span(calls: Sequence[int], to_the_end: bool) -> str:
    if len(calls) == 1:
        return f"at {calls[0]} call{'' if calls[0] == 1 else 's'}"
    if to_the_end:
        return f"from {calls[0]} on"
    return f"at {calls[0]} and {calls[1]} calls" if len(calls) == 2 else f"from {calls[0]} to {calls[-1]} calls"


def joined_by_and(words: Sequence[str]) -> str:
    """`words` as a sentence lists them: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
