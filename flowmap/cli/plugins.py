"""The commands on plugins: what is installed, and whether it keeps the laws."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowmap.cli import consoles
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.phases import phase

if TYPE_CHECKING:
    from flowmap.plugin.catalogue import Component
    from flowmap.testing.examination import Outcome
    from flowmap.testing.installed import Asked

app = typer.Typer()
plugins = typer.Typer(help="List what is installed, or check that it keeps the laws of its kind.")
app.add_typer(plugins, name="plugins")

_COLOURS = {"passed": "green", "failed": "red", "expected": "yellow"}
_TABLE_WIDTH = 160
_LAWS = "laws.md"


@plugins.callback(invoke_without_command=True)
def _list(context: typer.Context) -> None:
    """List what is installed: every component a recipe can name, and plugins that could not be loaded."""
    if context.invoked_subcommand is not None:
        return
    from flowmap.plugin.catalogue import catalogue

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name", "from", "what it is"):
        table.add_column(column, overflow="fold")
    with working(consoles.err, "nothing was changed"):
        found = catalogue()
    for component in found.components:
        twice = len(found.claims(component.kind, component.name)) > 1
        name = f"[red]{component.name} (claimed twice)[/]" if twice else f"[bold]{component.name}[/]"
        table.add_row(component.kind, name, component.distribution, escape(component.summary))
    for plugin in found.broken:
        table.add_row(
            "[red]broken[/]",
            escape(plugin.entry_point),
            plugin.distribution,
            f"[red]{escape(plugin.reason)}[/]",
        )
    for remark in found.remarks:
        table.add_row("[yellow]remark[/]", escape(remark.entry_point), remark.distribution, escape(remark.text))
    consoles.out.print(table)


@plugins.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A component's type, or a package with several.")],
    kind: Annotated[str | None, typer.Option(help="Of which kind, where several have that name.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of it. Repeatable.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="An installed data source, for whose samples a backbone or a metric is made.")
    ] = None,
) -> None:
    """Run the conformance kit on a component, and say which laws it keeps.

    Weights that others made are not read: a tiny twin of them is made and checked.
    """
    with working(consoles.out, "nothing was changed"), tempfile.TemporaryDirectory() as folder:
        with phase("starting"):
            from flowmap.testing.installed import asked_for
        found = [(asked, _examined(asked)) for asked in asked_for(name, kind, settings or [], data, Path(folder))]
    _remark({asked.component.distribution for asked, _ in found})
    clashes = _clashes([asked.component for asked, _ in found])
    if clashes:
        raise FlowmapError(f"no recipe can name what was checked: {'; '.join(clashes)}", 1)
    if not any(asked.examination for asked, _ in found):
        raise FlowmapError(f"nothing was checked: {found[0][0].why}")
    broken = [number for _, number in found]
    if sum(broken):
        laws = "1 law is" if sum(broken) == 1 else f"{sum(broken)} laws are"
        raise FlowmapError(
            f"{laws} broken; each says above what to look at, and `flowmap docs laws` what it is about", 1
        )
    consoles.out.print(
        f"All laws that apply are kept. Next: name '{escape(name)}' in a recipe, and try it: flowmap run RECIPE "
        "--rehearse",
        soft_wrap=True,
    )


def _remark(distributions: set[str]) -> None:
    """Say what is to be said of the plugins that these components are from."""
    from flowmap.plugin.catalogue import catalogue

    for remark in catalogue().remarks:
        if remark.distribution in distributions:
            words = f"{remark.entry_point} from {remark.distribution}: {remark.text}"
            consoles.out.print(f"[yellow]remark:[/] {escape(words)}", soft_wrap=True, highlight=False)


def _clashes(components: list[Component]) -> list[str]:
    """What is wrong with those of `components` of whose name there are others."""
    from flowmap.plugin.catalogue import catalogue, clash

    claimed = {(component.kind, component.name): None for component in components}
    return [clash(claims) for each in claimed if len(claims := catalogue().claims(*each)) > 1]


def _examined(asked: Asked) -> int:
    """Examine one component and show what became of it; how many laws are broken."""
    component = asked.component
    who = f"{component.kind} '{component.name}' from {component.distribution}"
    if asked.examination is None:
        consoles.out.print(f"[bold]{escape(who)}[/]: [yellow]not checked:[/] {escape(asked.why)}", soft_wrap=True)
        return 0
    with phase(f"checking {component.name}", len(asked.examination.cases()), "laws") as doing:
        outcomes = []
        for case in asked.examination.cases():
            outcomes.append(case.outcome())
            doing.advance()
    consoles.out.print(f"[bold]{escape(who)}[/]{', as a tiny twin of itself' if asked.twin else ''}", soft_wrap=True)
    # Elsewhere than on a terminal lines may be as long as the table needs.
    (consoles.out if consoles.out.is_terminal else Console(width=_TABLE_WIDTH)).print(_table(outcomes))
    counts = Counter(outcome.status for outcome in outcomes)
    consoles.out.print(", ".join(f"{number} {status}" for status, number in counts.items()))
    for outcome in outcomes:
        if outcome.status in ("failed", "expected"):
            colour = _COLOURS[outcome.status]
            consoles.out.print(
                f"[{colour}]{outcome.check.name}[/]: {escape(outcome.sentence)} ({_LAWS}#{outcome.check.anchor})",
                soft_wrap=True,
                highlight=False,
            )
    return counts["failed"]


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("check", "", "tier", "law"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        check, colour = outcome.check, _COLOURS.get(outcome.status, "dim")
        table.add_row(check.name, f"[{colour}]{outcome.status}[/]", check.tier, escape(check.law))
    return table
