"""Which dimensions can be scored now, and what the others lack."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowmap.vbench.dimensions import GRIT
from flowmap.vbench.environment import Environment
from flowmap.vbench.weights import absent


def show_readiness(environment: Environment, dimensions: Sequence[str], console: Console) -> None:
    """Print, for each dimension, whether the environment has its libraries and the caches its weights."""
    made = environment.made
    console.print(
        f"VBench {made.packages.get('vbench', '?')} with Python {made.python} in {escape(str(environment.folder))}: "
        f"{escape(made.kit)}",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("dimension", "can be scored", "what it lacks"):
        table.add_column(column, overflow="fold")
    for name in dimensions:
        lacks = _lacks(environment, name)
        table.add_row(name, "[red]no[/]" if lacks else "[green]yes[/]", escape("\n".join(lacks)))
    console.print(table)


def _lacks(environment: Environment, name: str) -> list[str]:
    if why := environment.made.broken.get(name):
        return [why.removeprefix(f"{name}: ")]
    if environment.made.packages.get("torch") is None and name != "temporal_flickering":
        return ["torch; the environment was made for temporal_flickering alone"]
    if name in GRIT and "detectron2" not in environment.made.packages:
        return ["detectron2"]
    return [f"{weight.place}\n  from {weight.source}" for weight in absent(name)]
