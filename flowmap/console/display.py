"""Show on the console what a command does: bars and phases on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from flowmap.phases import Phase, listening

_PER_SECOND = 10
_SHOWN_SECONDS = 0.5  # a phase that is shorter would only flicker
_SAID_SECONDS = 3.0
_LINE_SECONDS = 15.0
_NAMELESS = "working"
_LOOK_SECONDS = 0.5
_MINUTE = 60


@final
class Display:
    """What one console shows while a command works: the bars that were `added`, then the phases that take long."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_interactive
        self._phases: list[Phase] = []
        self._told = time.monotonic()  # when there was last something to show
        self._said: dict[int, float] = {}
        self._bars: list[RenderableType] = []
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=_PER_SECOND, transient=True)
        self._over = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it within this context. A console that breaks down meanwhile (its terminal has gone) is no error."""
        with listening(self):
            if self.live:
                self._live.start()
                try:
                    yield
                finally:
                    with suppress(OSError):
                        self._live.stop()
            else:
                watching = threading.Thread(target=self._watch, daemon=True)
                watching.start()
                try:
                    yield
                finally:
                    self._over.set()
                    watching.join()

    @contextmanager
    def added(self, bar: RenderableType) -> Iterator[None]:
        """Show `bar` above the phases within this context."""
        self._bars.append(bar)
        try:
            yield
        finally:
            with suppress(OSError):
                # However quick the work was, the bar is seen as it ended.
                self._live.refresh()
            self._bars.remove(bar)

    def begin(self, phase: Phase) -> None:
        """A phase begins."""
        self._phases.append(phase)

    def end(self, phase: Phase) -> None:
        """It has ended."""
        self._phases.remove(phase)
        self._said.pop(id(phase), None)

    def _picture(self) -> RenderableType:
        now = time.monotonic()
        lines: list[RenderableType] = []
        for phase in tuple(self._phases):
            if now - phase.began >= _SHOWN_SECONDS:
                lines.append(Text(f"  {_told(phase, now)}", "dim"))
        if lines or self._bars:
            self._told = now
        elif now - self._told >= 2 * _SHOWN_SECONDS:
            # Work that nobody has named, or many short phases: even then there is a word.
            what = next((phase.words() for phase in reversed(tuple(self._phases))), _NAMELESS)
            lines.append(Text(f"  {what}, {_duration(now - self._told)}", "dim"))
        if lines and not self._bars:
            self._spinner.update(text=lines[0])
            lines[0] = self._spinner
        return Group(*self._bars, *lines)

    def _watch(self) -> None:
        """Say a phase that takes long, and again now and then."""
        while not self._over.wait(_LOOK_SECONDS):
            now = time.monotonic()
            # The innermost of those that take long: what lies in it comes and goes.
            long = [phase for phase in tuple(self._phases) if now - phase.began >= _SAID_SECONDS]
            for phase in long[-1:]:
                last = self._said.get(id(phase))
                if last is None or now - last >= _LINE_SECONDS:
                    self._said[id(phase)] = now
                    with suppress(OSError):
                        self.console.print(_told(phase, now), style="dim", markup=False, soft_wrap=True)


_shown: list[Display] = []


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """The display that shows what goes on, made for `console` unless there is one already."""
    if _shown:
        yield _shown[-1]
        return
    made = Display(console)
    _shown.append(made)
    try:
        with made.shown():
            yield made
    finally:
        _shown.remove(made)


def _told(phase: Phase, now: float) -> str:
    """What is done, how far it is, for how long already, and for how long still."""
    left = phase.left(now)
    still = "" if left is None else f", {_duration(left)} left"
    return f"{phase.words()}, {_duration(now - phase.began)}{still}"


def _duration(seconds: float) -> str:
    """As one reads it: 12 s, 3:05 min."""
    return f"{seconds:.0f} s" if seconds < _MINUTE else f"{seconds // _MINUTE:.0f}:{seconds % _MINUTE:02.0f} min"
