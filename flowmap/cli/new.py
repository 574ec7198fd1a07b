"""The commands that begin something of one's own: a recipe, or a package with a component."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flowmap.cli import consoles
from flowmap.cli import runs as cli_runs
from flowmap.scaffold.kinds import KINDS, one_of

app = typer.Typer()
new = typer.Typer(help="Begin something of your own, which works at once: a recipe, or a package with a component.")
app.add_typer(new, name="new", no_args_is_help=True)

_Name = Annotated[
    str, typer.Argument(help="What folder, package and component are called: a word that Python can import.")
]
_Source = Annotated[
    str | None,
    typer.Option("--from", metavar="INSTALLED", help="An installed component of the kind, to begin as a copy of it."),
]


@new.command()
def recipe(
    name: Annotated[str, typer.Argument(help="What it is called; it is written to NAME.toml in the current folder.")],
    source: Annotated[
        Path, typer.Option("--from", metavar="RECIPE", help="What it is a copy of.", callback=cli_runs.at_home)
    ] = Path("quickstart"),
) -> None:
    """Write a copy of a recipe or a comparison, under a name of its own, to be changed. Overwrites nothing."""
    from flowmap.recipe.copying import write_copy

    file, compares = write_copy(name, source)
    command = f"flowmap {'compare' if compares else 'run'} {file}"
    consoles.out.print(f"[green]✓[/] {escape(f'{file}: a copy of {source}. Run it: {command}')}", soft_wrap=True)


def _begin(kind: str) -> Callable[..., None]:
    """The command that writes a package with a component of `kind`."""

    def command(name: _Name, source: _Source = None) -> None:
        from flowmap.scaffold.packages import write_package

        folder = write_package(kind, name, source)
        what = f"{one_of(kind)} of its own" if source is None else f"a copy of the {KINDS[kind]} '{source}'"
        there = shlex.quote(str(folder))
        consoles.out.print(f"[green]✓[/] {escape(f'{folder}/: a package with {what}. Next:')}", soft_wrap=True)
        for line in (
            f"cd {there}",
            "pip install -e '.[test]'",
            "pytest",
            f"flowmap plugins check {name}",
            f"flowmap run {name}.toml --rehearse",
        ):
            consoles.out.print(f"  {escape(line)}", soft_wrap=True, highlight=False)

    return command


for _kind in KINDS:
    new.command(
        _kind,
        help=f"Write a package with {one_of(_kind)} of your own: module, test, recipe, README, CI. Overwrites nothing.",
    )(_begin(_kind))
