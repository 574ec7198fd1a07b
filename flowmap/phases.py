"""Say what is being done, wherever it is done: reading weights, hashing, measuring. Whoever shows it listens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, final

_GB = 1e9

T = TypeVar("T")


@final
class Phase:
    """A piece of work that may take long: `done` of `total` units of `unit`, "bytes" among others; 0 if unknown."""

    def __init__(self, what: str, total: float, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0.0
        self.began = time.monotonic()

    def advance(self, by: float = 1) -> None:
        """So much more is done."""
        self.done += by

    def words(self) -> str:
        """What is done, and how far it is."""
        if not self.total:
            return self.what
        if self.unit == "bytes":
            return f"{self.what}: {self.done / _GB:.2f} of {self.total / _GB:.2f} GB"
        return f"{self.what}: {self.done:,.0f} of {self.total:,.0f}{' ' * bool(self.unit)}{self.unit}"

    def left(self, now: float) -> float | None:
        """Seconds to its end at the pace so far, at the time `now`; None if nothing can be said of that."""
        if not 0 < self.done < self.total:
            return None
        return (now - self.began) * (self.total - self.done) / self.done


class Listener(Protocol):
    """Who shows phases."""

    def begin(self, phase: Phase) -> None:
        """A phase begins."""

    def end(self, phase: Phase) -> None:
        """It has ended, well or not."""


_listeners: list[Listener] = []
_silent: ContextVar[bool] = ContextVar("_silent", default=False)


@contextmanager
def phase(what: str, total: float = 0, unit: str = "") -> Iterator[Phase]:
    """Do `what` in this context; it is shown where somebody listens and it takes long. Phases may lie in phases."""
    made = Phase(what, total, unit)
    listeners = () if _silent.get() else tuple(_listeners)
    for listener in listeners:
        listener.begin(made)
    try:
        yield made
    finally:
        for listener in listeners:
            listener.end(made)


def each(items: Sequence[T], what: str, unit: str = "") -> Iterator[T]:
    """The `items`, one after the other, as a phase that says how many of them are done."""
    with phase(what, len(items), unit) as doing:
        for item in items:
            yield item
            doing.advance()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this context `listener` is told of every phase of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def silently() -> Iterator[None]:
    """Within this context nobody is told of phases: for a thread whose work is done beside what is shown."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)
