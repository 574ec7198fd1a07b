"""What every command has around it: its console shows what goes on, and a signal ends it in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flowmap.commands import process
from flowmap.display import display
from flowmap.errors import FlowmapError
from flowmap.signals import Interruption, Signalled

_CTRL_C = 130


@contextmanager
def working(console: Console, kept: str) -> Iterator[None]:
    """Work in this context, shown on `console` by the first process alone; `kept` says what a signal leaves."""
    shown = console if process()[0] == 0 else Console(quiet=True)
    try:
        with Interruption().raising(), display(shown):
            yield
    except Signalled as error:
        how = "interrupted" if error.code == _CTRL_C else f"stopped by {error.signal.name}"
        raise FlowmapError(f"{how}; {kept}", error.code) from None
    except KeyboardInterrupt:
        raise FlowmapError(f"interrupted; {kept}", _CTRL_C) from None
