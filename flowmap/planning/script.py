"""What happens while a step is counted, in order: calls, and the graphs that backwards give up."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import final

from flowmap.plugin.footprint import CallShape


@final
@dataclass(frozen=True)
class Call:
    """One network call: of which role, how it looks, with how many samples, and whether it keeps a graph."""

    role: str
    shape: CallShape
    samples: int
    gradient: bool


Event = Call | int
"""A call; or the place among the events of the call whose graph is given up now, by its backward."""


@final
class Script:
    """Writes down what happens."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def call(self, call: Call) -> int:
        """Note a call; its place."""
        self._events.append(call)
        return len(self._events) - 1

    def graph(self, place: int) -> Graph:
        """What stands for the graph of the call at `place`, and is noted when it is given up."""
        graph = Graph()
        weakref.finalize(graph, self._events.append, place)
        return graph

    def take(self) -> tuple[Event, ...]:
        """What was written since the last `take`."""
        events, self._events = tuple(self._events), []
        return events


@final
class Graph:
    """Lives as long as what autograd keeps of a call."""
