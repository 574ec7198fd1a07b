"""What every command has around it: its console shows what goes on, and a signal ends it in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flowmap.console.commands import process
from flowmap.console.display import display
from flowmap.console.signals import CTRL_C, Interruption, Signalled
from flowmap.errors import FlowmapError


@contextmanager
def working(console: Console, kept: str) -> Iterator[None]:
    """Work in this context, shown on `console` by the first process alone; `kept` says what a signal leaves."""
    shown = console if process()[0] == 0 else Console(quiet=True)
    try:
        with Interruption().raising(), display(shown):
            yield
    except Signalled as error:
        raise FlowmapError(f"{error.words()}; {kept}", error.code) from None
    except KeyboardInterrupt:
        raise FlowmapError(f"interrupted; {kept}", CTRL_C) from None
