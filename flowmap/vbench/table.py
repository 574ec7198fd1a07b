"""Print what was scored: a row for each dimension, the total or what it lacks."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowmap.vbench.dimensions import I2V, T2V, Suite
from flowmap.vbench.record import Record


def show(record: Record, console: Console) -> None:
    """Print a record: in percent, raw and as a share of the dimension's range, with intervals where they are known."""
    suite = next(each for each in (T2V, I2V) if each.name == record.suite)
    title = f"{record.suite}{' (a part: not comparable)' * bool(record.incomparable)}"
    console.print(f"[bold]{escape(title)}[/]")
    console.print(_dimensions(suite, record))
    if (total := record.total) is not None:
        half = "" if total.half is None else f" ± {100 * total.half:.2f}"
        parts = ", ".join(f"{name} {100 * value:.2f}" for name, value in total.parts.items())
        clipped = (
            "" if total.clipped is None else f"; clipped into the ranges, as some papers do: {100 * total.clipped:.2f}"
        )
        console.print(f"[bold]total {100 * total.total:.2f}{half}[/] ({parts}{clipped})", highlight=False)
    else:
        console.print("No total:", highlight=False)
        asked = [f"not asked for: {', '.join(record.not_asked)}"] if record.not_asked else []
        for why in [*record.incomparable, *record.missing.values(), *asked]:
            console.print(f"• {escape(why)}", highlight=False, soft_wrap=True)


def _dimensions(suite: Suite, record: Record) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("dimension", no_wrap=True)
    for column in ("score", "±", "of its range", "clips"):
        made.add_column(column, justify="right", no_wrap=True)
    for name in suite.dimensions:
        if (row := record.rows.get(name)) is None:
            made.add_row(name, "[dim]-[/]", "", "", "")
            continue
        half = "" if row.half is None else f"{100 * row.half:.2f}"
        left_out = f" ({row.left_out} left out)" if row.left_out else ""
        made.add_row(name, f"{100 * row.score:.2f}", half, f"{100 * row.share:.2f}", f"{row.clips:,}{left_out}")
    return made
