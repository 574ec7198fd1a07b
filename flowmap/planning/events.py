"""The events of a step that is counted, in their order: which network is called, and when memory is let go.

A stand-in network (flowmap.planning.stand_ins) reports each of its calls to an `EventLog`. For a call with gradient the
log hands out a `Graph`, which autograd keeps as long as it would keep a real network's activations, and notes the
moment at which it is let go. So the log knows how much is in memory at any event, which flowmap.planning.estimate adds
up. `flowmap.planning.tally` has one log for a stage, and takes its events after every micro-batch.
"""

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
"""A call; or an integer: now backward lets go the graph of a call, which is at this place in the list of events."""


@final
class EventLog:
    """The events since they were last taken, oldest first."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def call(self, call: Call) -> int:
        """Note a call; its place among the events."""
        self._events.append(call)
        return len(self._events) - 1

    def graph(self, place: int) -> Graph:
        """What stands for the graph of the call at `place`; when nobody holds it any more, that is an event too."""
        graph = Graph()
        weakref.finalize(graph, self._events.append, place)
        return graph

    def take(self) -> tuple[Event, ...]:
        """The events since the last `take`, which are forgotten here."""
        events, self._events = tuple(self._events), []
        return events


@final
class Graph:
    """Stands for the activations of a call: autograd holds it as long as it would hold those."""
