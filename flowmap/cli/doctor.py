"""The command that looks at the machine: doctor."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flowmap.cli import consoles
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.phases import phase

app = typer.Typer()


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Say what this machine has and what each recipe misses, with a block for a bug report. Downloads nothing.

    Exits with 1 if something is wrong that concerns every run.
    """
    out = consoles.out
    # On a console of its own, for the output may go to a program.
    with working(out if out.is_terminal else consoles.err, "nothing was changed"):
        with phase("starting"):
            from flowmap.doctor.examine import examine
            from flowmap.doctor.text import advice, block, recipe_rows
        found = examine()
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("recipe", "here"):
            table.add_column(column, overflow="fold")
        for name, state in recipe_rows(found):
            table.add_row(f"[bold]{escape(name)}[/]", f"[green]{state}[/]" if state == "ready" else escape(state))
        out.print(table)
        for line in advice(found):
            out.print(escape(line), soft_wrap=True)
        out.print()
        out.print(block(found), soft_wrap=True, markup=False, highlight=False)
    if found.wrong:
        raise FlowmapError("\n".join(["something is wrong that concerns every run:", *found.wrong]), 1)
    if not as_json:
        out.print(f"[green]✓[/] nothing is wrong that concerns every run, which would compute on {found.machine.taken}")
