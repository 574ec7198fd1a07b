"""Show what is being done where it takes long: in place on a terminal, a line now and then elsewhere. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from flowmap.phases import Tell

_LINE_SECONDS = 3.0


@contextmanager
def phases_shown(console: Console) -> Iterator[Tell]:
    """A teller whose words `console` shows: on a terminal the latest, elsewhere as `lines` does."""
    if not console.is_terminal:
        yield lines(console)
        return
    with console.status("") as status:
        yield lambda text, done, total: status.update(escape(words(text, done, total)))


def lines(console: Console) -> Tell:
    """A teller whose words are lines of `console`, those that come late enough after the one before."""
    last = time.monotonic()

    def tell(text: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_SECONDS:
            last = now
            console.print(escape(words(text, done, total)), soft_wrap=True)

    return tell


def words(text: str, done: int, total: int) -> str:
    """What is being done, and how far it is where that is known."""
    return f"{text} ({done} of {total})" if total > 1 else text
