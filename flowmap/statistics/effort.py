"""What one sample takes of a network, as it was counted while scored samples were made. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Effort(NamedTuple):
    """What one sample takes.

    It is made of so many `chunks`, one after the other, by so many network `calls` in all: those of each chunk, those
    that read finished chunks and given frames, and under guidance those for the null condition. `passes` counts every
    network that a call goes through: of a pair both, where both read.
    """

    chunks: int
    calls: int
    passes: int


def in_line(effort: Effort | None) -> dict[str, int]:
    """The same by the keys of a line of `metrics.jsonl`; zeros if it was not counted."""
    chunks, calls, passes = effort or (0, 0, 0)
    return {"chunks": chunks, "calls_in_all": calls, "passes_in_all": passes}


def effort_of(line: Mapping[str, Any]) -> Effort | None:
    """What a line of `metrics.jsonl` says of it; None of lines of older versions, and of a network by itself."""
    found = Effort(*(line.get(key, 0) for key in in_line(None)))
    return found if found.chunks else None
