"""The command that shows the documentation where no browser is: docs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from flowmap.cli import consoles
from flowmap.console.pages import page, pages, title_of

app = typer.Typer()


@app.command()
def docs(
    name: Annotated[
        str | None, typer.Argument(metavar="PAGE", help="A page, as messages name it; without one, all are listed.")
    ] = None,
) -> None:
    """Show a page of the documentation that messages speak of, as text."""
    out = consoles.out
    if name is not None:
        text = page(name)
        # Elsewhere than on a terminal a program reads, or a file is written.
        if out.is_terminal:
            out.print(Markdown(text))
        else:
            print(text, end="")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for found, path in pages().items():
        table.add_row(f"[bold]{escape(found)}[/]", escape(title_of(path.read_text("utf-8"))))
    out.print(table)
    out.print("One of them: flowmap docs plugins", highlight=False)
