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
    """A teller whose words `console` shows: on a terminal the latest, elsewhere those that come late enough."""
    last = time.monotonic()
    with console.status("") as status:

        def tell(text: str, done: int, total: int) -> None:
            nonlocal last
            shown = escape(f"{text} ({done} of {total})" if total > 1 else text)
            status.update(shown)
            now = time.monotonic()
            if not console.is_terminal and now - last >= _LINE_SECONDS:
                last = now
                console.print(shown, soft_wrap=True)

        yield tell
