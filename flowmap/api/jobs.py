"""Whole jobs from Python: run a recipe, compare contestants, open what there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowmap.api.consoles import notebook_console
from flowmap.api.run import Run
from flowmap.comparison.processes import leave_if_rerun, refuse_unguarded
from flowmap.comparison.record import load
from flowmap.comparison.run import compare as run_comparison
from flowmap.comparison.standings import Standings
from flowmap.comparison.unfold import read_comparison
from flowmap.console.options import from_python, option
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.launch.run import run_recipe

_KEPT = "what was finished is kept. Call it again to go on"


@from_python(stage="stages")
def run(
    recipe: str | Path,
    *,
    overrides: str | Sequence[str] = (),
    stages: str | Sequence[str] = (),
    fresh: bool = False,
    runs: str | Path = "runs",
) -> Run:
    """Train every stage of `recipe` that is not finished, evaluate, report: `flowmap run`.

    `recipe` is a file, or the name of one that flowmap brings (`flowmap recipes`). `overrides`, one or several, change
    fields, as `--set` does: "stages.teacher.steps=10". With `stages`, one or several, these alone are trained, and
    nothing is evaluated. `fresh` sets the old folder aside. The run is in `runs`/<name>. Raises FlowmapError for
    whatever is wrong with the recipe or the machine, and when it is interrupted; what was finished is kept.
    """
    console = notebook_console()
    with working(console, _KEPT):
        plan = run_recipe(Path(recipe), _several(overrides), _several(stages), fresh, Path(runs), console)
    return load_run(plan.folder)


@from_python()
def compare(
    *specifications: str | Path,
    overrides: str | Sequence[str] = (),
    processes: int | None = None,
    fresh: bool = False,
    redo: str | Sequence[str] = (),
    runs: str | Path = "runs",
) -> Standings:
    """Train contestants at equal budgets, and say which is better where: `flowmap compare`.

    One file with contestants, or several recipes to compare as they are. Contestants are trained in processes of their
    own: a script that calls this does so below `if __name__ == "__main__":`, a notebook as it is. Raises FlowmapError
    for a script that does not, for whatever is wrong with the specification or the machine, if a contestant failed, and
    when it is interrupted; what was finished is kept.
    """
    leave_if_rerun()
    console, paths = notebook_console(), [Path(path) for path in specifications]
    if not paths:
        raise FlowmapError("give a specification, or several recipes")
    if processes is not None and processes < 1:
        raise FlowmapError(
            f"{option('processes', processes)}: at least one is needed, or None for as many as the specification says"
        )
    settings = _several(overrides)
    name = read_comparison(paths, settings)[0].name
    refuse_unguarded()
    with working(console, _KEPT):
        run_comparison(paths, settings, Path(runs), processes, fresh, _several(redo), console)
    return load(Path(runs) / name)


def load_run(folder: str | Path) -> Run:
    """The run in `folder`. Raises FlowmapError if it is none, or its recipe is damaged."""
    return Run(Path(folder))


def _several(words: str | Sequence[str]) -> tuple[str, ...]:
    """A single word is a list of one, and not of its letters."""
    return (words,) if isinstance(words, str) else tuple(words)
