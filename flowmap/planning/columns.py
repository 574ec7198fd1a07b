"""How `flowmap plan` writes tables, notes and sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowmap.planning.estimate import GB

_WIDTH = 98


def new_table(words: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table of left-aligned `words` and right-aligned `numbers`."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in words:
        made.add_column(column, no_wrap=True)
    for column in numbers:
        made.add_column(column, justify="right", no_wrap=True)
    return made


def note(text: str, console: Console) -> None:
    """A paragraph below a table."""
    console.print(f"\n[dim]{escape(textwrap.fill(text, _WIDTH))}[/]", highlight=False)


def point(text: str, console: Console) -> None:
    """One point of a list."""
    console.print(escape(textwrap.fill(f"• {text}", _WIDTH, subsequent_indent="  ")), highlight=False)


def gigabytes(size: float) -> str:
    """A size in GB, as short as it can be."""
    return (
        f"{size / GB:.1f}"
        if size >= GB / 10
        else ("0" if not size else f"{size / GB:.1g}" if size >= 1e6 else "<0.001")
    )


def many(number: int) -> str:
    """A number of parameters."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.2f}{name}"
    return str(number)
