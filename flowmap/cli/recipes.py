"""The commands on recipes that there are: those that flowmap brings."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowmap.cli import consoles

app = typer.Typer()

_TABLE_WIDTH = 160


@app.command()
def recipes() -> None:
    """List the recipes that flowmap brings: each can be given by its name wherever a recipe is asked for."""
    from flowmap.recipe.read import is_comparison, text_of
    from flowmap.recipe.shipped import head_of, shipped

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "what it is", "takes", "needs"):
        table.add_column(column, overflow="fold")
    commands: dict[str, list[str]] = {"run": [], "compare": []}
    for name, path in shipped().items():
        head = head_of(text_of(path))
        table.add_row(f"[bold]{escape(name)}[/]", *(escape(said) for said in (head.about, head.takes, head.needs)))
        commands["compare" if is_comparison(path) else "run"].append(name)
    # Elsewhere than on a terminal lines may be as long as the table needs.
    out = consoles.out if consoles.out.is_terminal else Console(width=_TABLE_WIDTH)
    out.print(table)
    for command, names in commands.items():
        out.print(f"[bold]flowmap {command}[/] takes {escape(', '.join(names))}", highlight=False, soft_wrap=True)
    out.print("A copy of one to change: flowmap new recipe NAME --from quickstart", highlight=False, soft_wrap=True)
