"""The command that tells editors what a recipe may hold: schema."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flowmap.cli import consoles
from flowmap.cli import runs as cli_runs
from flowmap.console.working import working

app = typer.Typer()


class Kind(StrEnum):
    """What is described."""

    RECIPE = "recipe"
    COMPARISON = "comparison"


@app.command()
def schema(
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where it goes; printed if not given.", callback=cli_runs.at_home),
    ] = None,
    kind: Annotated[Kind, typer.Option(help="What it describes.")] = Kind.RECIPE,
) -> None:
    """Write the JSON Schema of recipes, with all that is installed, for editors that complete and check fields."""
    if kind is Kind.RECIPE:
        from flowmap.recipe.json_schema import recipe_schema as made
    else:
        from flowmap.comparison.json_schema import comparison_schema as made
    with working(consoles.err, "nothing was written"):
        text = json.dumps(made(), indent=1) + "\n"
    if out is None:
        print(text, end="")
        return
    from flowmap.files.whole import write_whole

    write_whole(out, text)
    hint = f"the first line of a {kind} beside it: #:schema ./{out.name}"
    consoles.out.print(f"[green]✓[/] {escape(f'{out}: {hint}')}", soft_wrap=True, highlight=False)
